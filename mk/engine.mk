# The engine keeps the guest's SIMD and x87 state in the processor while its own C runs, so its
# objects use general registers only and no loop may become a call of libc's memset or memcpy
# (docs/ENGINE.md, "Registers and stack").
ENGINE_CFLAGS := -mgeneral-regs-only $(if $(findstring clang,$(CC)),-fno-builtin-memset \
                 -fno-builtin-memcpy,-fno-tree-loop-distribute-patterns)
$(O)/src/engine/%.o $(O)/pic/src/engine/%.o: CFLAGS += $(ENGINE_CFLAGS)
# What the engine calls with that state in the processor (engine.h: engine_ops.ring).
RING_OBJS := $(addprefix src/softkvm/,vcpu_ops.o iobus.o ioeventfd.o)
$(addprefix $(O)/,$(RING_OBJS)) $(addprefix $(O)/pic/,$(RING_OBJS)): CFLAGS += $(ENGINE_CFLAGS)
