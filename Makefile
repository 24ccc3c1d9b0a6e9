# Belfry. `make help` lists the targets.
#
# Objects go to build/$(MODE); the release program is also left as build/belfry.
# MODE: rel (default), dbg, asan (with ubsan), ubsan, tsan, cov. CC: gcc (default) or clang.

MODE   ?= rel
O      := build/$(MODE)
CC     ?= cc
ifeq ($(origin CC),default)
CC     := gcc
endif

WARN   := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith \
          -Wno-unused-parameter -Wno-missing-field-initializers -Wno-gnu-variable-sized-type-not-at-end
CFLAGS_rel   := -O2 -g
CFLAGS_dbg   := -Og -g -DBELFRY_DEBUG=1
CFLAGS_asan  := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all
CFLAGS_tsan  := -O1 -g -fsanitize=thread
CFLAGS_cov   := -O0 -g --coverage
ifeq ($(CFLAGS_$(MODE)),)
$(error MODE=$(MODE) is unknown; use rel, dbg, asan, ubsan, tsan or cov)
endif

CPPFLAGS += -D_GNU_SOURCE -Isrc -MMD -MP
CFLAGS   += -std=gnu11 $(WARN) $(CFLAGS_$(MODE)) -fno-strict-aliasing -pthread
LDFLAGS  += $(filter -fsanitize% --coverage,$(CFLAGS_$(MODE))) -pthread
LDLIBS   += -luring -lslirp -lZydis

ROOMS    := $(notdir $(wildcard src/*))
SRCS     := $(wildcard src/*/*.c)
APP_SRCS := $(wildcard src/app/*.c)
LIB_SRCS := $(filter-out $(APP_SRCS) $(wildcard src/softkvm/preload*.c),$(SRCS))
LIB      := $(O)/libbelfry.a
BIN      := $(O)/belfry

objs = $(patsubst %.c,$(O)/%.o,$(filter %.c,$1)) $(patsubst %.S,$(O)/%.o,$(filter %.S,$1))

UNIT_SRCS := $(wildcard tests/unit/*.c)
UNIT_BINS := $(patsubst tests/unit/%.c,$(O)/tests/%,$(UNIT_SRCS))
TLIB_SRCS := $(wildcard tests/lib/*.c)

# V=1 shows the commands.
ifeq ($(V),)
Q := @
say = @echo "  $1 $2"
endif

.PHONY: all tests help clean
all: $(O)/belfry
ifeq ($(O),build/rel)
all: build/belfry
endif

-include mk/*.mk

build/belfry: build/rel/belfry
	@cp -f $< $@.tmp && mv -f $@.tmp $@

$(BIN): $(call objs,$(APP_SRCS)) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(call objs,$(LIB_SRCS))
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(O)/%.o: %.S
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(Q)$(CC) $(CPPFLAGS) -c -o $@ $<

$(O)/tests/%: $(O)/tests/unit/%.o $(call objs,$(TLIB_SRCS)) $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

tests: $(UNIT_BINS)

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make            build build/belfry (MODE=rel|dbg|asan|ubsan|tsan|cov, CC=gcc|clang)
## make clean      remove build/
clean:
	rm -rf build

-include $(shell find $(O) -name '*.d' 2>/dev/null)
.SECONDARY:
