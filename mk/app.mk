# The library has no app in it; its tests name the objects they need.
APP_TEST_OBJS := $(addprefix $(O)/src/app/,options.o help.o commands.o run_options.o accel.o report.o \
                                           doctor_host.o)
$(O)/tests/options $(O)/tests/doctor: $(APP_TEST_OBJS)
$(O)/tests/options $(O)/tests/doctor: LDLIBS := $(LIB) $(LDLIBS)
