# Tests on the kernel's KVM: tests/kvm/<name>.c is build/<mode>/tests/kvm_<name>.
# They skip themselves, and say why, where there is no usable /dev/kvm.
KVM_TESTS := $(patsubst tests/kvm/%.c,$(O)/tests/kvm_%,$(wildcard tests/kvm/*.c))

tests: $(KVM_TESTS)

$(KVM_TESTS): $(O)/tests/kvm_%: $(O)/tests/kvm/%.o $(call objs,$(TLIB_SRCS)) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka
