# The bare-metal guests' code is assembled into the library.
LIB_SRCS += $(wildcard src/monitor/*.S)
