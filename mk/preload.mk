# libsoftkvm-preload.so: the rooms that softkvm is made of, position-independent,
# with their calls of the functions it intercepts renamed, so that they go past
# the interception to the C library.
PRE_O    := $(O)/pic
PRE_OWN  := $(patsubst %.c,$(PRE_O)/%.o,$(wildcard src/softkvm/preload*.c))
PRE_SRCS := $(filter-out $(wildcard src/softkvm/preload*.c), \
              $(foreach room,base irqchip engine softkvm,$(wildcard src/$(room)/*.c)))
PRE_OBJS := $(patsubst %.c,$(PRE_O)/%.o,$(PRE_SRCS))
PRE_LIB  := $(O)/libsoftkvm-preload.so
PRE_CALLS := open open64 ioctl mmap mmap64 munmap close sigaction

$(PRE_O)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$< (pic))
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -c -o $@ $<

$(PRE_O)/rooms.o: $(PRE_OBJS)
	$(Q)ld -r -o $@.tmp $^
	$(Q)objcopy $(foreach f,$(PRE_CALLS),--redefine-sym $(f)=soft_real_$(f)) $@.tmp $@
	@rm -f $@.tmp

$(PRE_LIB): $(PRE_OWN) $(PRE_O)/rooms.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,defs -o $@ $^ -lZydis -ldl

ifneq ($(wildcard src/softkvm/softkvm.c),)
all: $(PRE_LIB)
ifeq ($(O),build/rel)
all: build/libsoftkvm-preload.so
endif
build/libsoftkvm-preload.so: build/rel/libsoftkvm-preload.so
	@cp -f $< $@.tmp && mv -f $@.tmp $@
endif

# What is preloaded in the tests (tests/preload/run) must not have softkvm linked in.
ifeq ($(O),build/rel)
tests: $(O)/preload-program
$(O)/preload-program: $(O)/tests/preload/program.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka
endif
