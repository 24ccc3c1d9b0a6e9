# Whole machines, for the tests of their life cycle on each KVM half. Not in tests/lib: that is
# linked into every test, and some put stubs in the place of a room that is all here.
LIFE_OBJS := $(call objs,$(wildcard tests/life/*.c))
LIFE_BINS := $(O)/tests/lifecycle $(O)/tests/kvm_lifecycle
$(LIFE_BINS): $(LIFE_OBJS)
$(LIFE_BINS): LDLIBS := $(LIB) $(LDLIBS)
