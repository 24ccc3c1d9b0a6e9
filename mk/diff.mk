# tests/diff: random sequences of calls on the kernel's KVM and on softkvm (docs/DIFF.md).
# build/<mode>/diff/apidiff; and what it prints: make build/rel/diff/repro REPRO=found.c
DIFF_OBJS := $(call objs,$(filter-out tests/diff/main.c,$(wildcard tests/diff/*.c)))
APIDIFF   := $(O)/diff/apidiff

tests: $(APIDIFF)

$(APIDIFF): $(O)/tests/diff/main.o $(DIFF_OBJS) $(call objs,$(TLIB_SRCS)) $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

$(O)/diff/repro: $(REPRO) $(DIFF_OBJS) $(call objs,$(TLIB_SRCS)) $(LIB)
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka
