/* SPDX-License-Identifier: MIT
 *
 * An access that may fault is one instruction at an address the SIGSEGV handler
 * knows; the handler moves RIP to the instruction's fix-up, as the kernel's
 * exception table does. Everything else goes on to the handler that was there.
 *
 * Signal handlers belong to the process, hence the state at file scope (as in
 * signal.c): the handlers that were there before ours.
 */
#include "softkvm/usercopy.h"
#include <signal.h>
#include <ucontext.h>

extern const char usercopy_begin[], usercopy_end[], usercopy_fixup[];

/*
 * usercopy_bytes(rdi dst, rsi src, rdx len) and the byte operations return 0 or
 * the old value in rax; a fault anywhere between begin and end continues at
 * fixup, which returns -1. Nothing is pushed in between, so a ret is enough.
 */
__asm__(".text\n"
	".globl usercopy_begin, usercopy_end, usercopy_fixup\n"
	".hidden usercopy_begin, usercopy_end, usercopy_fixup\n"
	".type usercopy_bytes, @function\n"
	".type usercopy_and8, @function\n"
	".type usercopy_or8, @function\n"
	"usercopy_begin:\n"
	"usercopy_bytes:\n"
	"	movq %rdx, %rcx\n"
	"	shrq $3, %rcx\n"
	"	andl $7, %edx\n"
	"	cmpq $64, %rcx\n"
	"	jae 3f\n"
	"1:	testq %rcx, %rcx\n"
	"	jz 2f\n"
	"	movq (%rsi), %rax\n"
	"	movq %rax, (%rdi)\n"
	"	addq $8, %rsi\n"
	"	addq $8, %rdi\n"
	"	decq %rcx\n"
	"	jmp 1b\n"
	"3:	rep movsq\n"
	"2:	movl %edx, %ecx\n"
	"	rep movsb\n"
	"	xorl %eax, %eax\n"
	"	ret\n"
	"usercopy_and8:\n"
	"	movzbl (%rdi), %eax\n"
	"1:	movl %eax, %ecx\n"
	"	andl %esi, %ecx\n"
	"	lock cmpxchgb %cl, (%rdi)\n"
	"	jnz 1b\n"
	"	movzbl %al, %eax\n"
	"	ret\n"
	"usercopy_or8:\n"
	"	movzbl (%rdi), %eax\n"
	"1:	movl %eax, %ecx\n"
	"	orl %esi, %ecx\n"
	"	lock cmpxchgb %cl, (%rdi)\n"
	"	jnz 1b\n"
	"	movzbl %al, %eax\n"
	"	ret\n"
	"usercopy_end:\n"
	"usercopy_fixup:\n"
	"	movl $-1, %eax\n"
	"	ret\n");

int usercopy_bytes(void *dst, const void *src, size_t len);
int usercopy_and8(uint8_t *p, unsigned mask);
int usercopy_or8(uint8_t *p, unsigned mask);

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER; /* process-wide */
static const int signals[2] = { SIGSEGV, SIGBUS };
/* Before ours was installed for the first time, and before it was the last time. */
static struct sigaction first[2], latest[2];
static bool installed; /* process-wide, as the handler is */
/* The frame this thread is passing on: who gets it back is the end of a circle. */
static _Thread_local const void *passing;

static void call(const struct sigaction *old, int sig, siginfo_t *info, void *uc)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, uc);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	else
		/* A fault cannot be ignored: let it happen again and take its course. */
		(void)sigaction(sig, &dfl, NULL);
}

bool usercopy_owns(uint64_t rip)
{
	return rip >= (uint64_t)usercopy_begin && rip < (uint64_t)usercopy_end;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	unsigned i = sig == signals[1];

	if (usercopy_owns(rip)) {
		uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)usercopy_fixup;
		return;
	}
	if (passing == context) {
		call(&first[i], sig, info, context);
		return;
	}
	passing = context;
	call(&latest[i], sig, info, context);
	passing = NULL;
}

/* Somebody may have put a handler over ours since, one that calls ours or one that does not. */
void usercopy_init(int sig)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	struct sigaction now;

	sigemptyset(&sa.sa_mask);
	mutex_lock(&install_lock);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		if ((sig && sig != signals[i]) || sigaction(signals[i], NULL, &now) < 0 ||
		    (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault))
			continue;
		latest[i] = now;
		if (!installed)
			first[i] = now;
		(void)sigaction(signals[i], &sa, NULL);
	}
	installed = true;
	mutex_unlock(&install_lock);
}

int copy_from_user(void *dst, uintptr_t src, size_t len)
{
	return usercopy_bytes(dst, (const void *)src, len) ? -EFAULT : 0;
}

int copy_to_user(uintptr_t dst, const void *src, size_t len)
{
	return usercopy_bytes((void *)dst, src, len) ? -EFAULT : 0;
}

int user_clear_bits8(uint8_t *p, uint8_t mask)
{
	int r = usercopy_and8(p, (uint8_t)~mask);

	return r < 0 ? -EFAULT : r;
}

int user_set_bits8(uint8_t *p, uint8_t mask)
{
	int r = usercopy_or8(p, mask);

	return r < 0 ? -EFAULT : r;
}
