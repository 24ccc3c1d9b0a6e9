/* SPDX-License-Identifier: MIT */
#ifndef BELFRY_KVMAPI_PRIV_H
#define BELFRY_KVMAPI_PRIV_H

#include "kvmapi/kvmapi.h"

static inline int api_ioctl(const struct kvmapi *api, int fd, unsigned long request, uintptr_t arg)
{
	return api->ops->ioctl(api->ctx, fd, request, arg);
}

static inline int vm_ioctl(struct vm *vm, unsigned long request, const void *arg)
{
	return api_ioctl(&vm->sys->api, vm->fd, request, (uintptr_t)arg);
}

static inline int vm_ioctl_val(struct vm *vm, unsigned long request, uintptr_t arg)
{
	return api_ioctl(&vm->sys->api, vm->fd, request, arg);
}

static inline int vcpu_ioctl(struct vcpu *v, unsigned long request, const void *arg)
{
	return api_ioctl(&v->vm->sys->api, v->fd, request, (uintptr_t)arg);
}

#endif
