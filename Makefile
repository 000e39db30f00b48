# Five commands: make setup, make check, make test, make demo, make bpf. V=1 shows what is run.
# Nothing here needs root but `setup` (system packages) and the kernel tests, which say so themselves.

VENV      := .venv
PYTHON    := $(VENV)/bin/python
CLANG     ?= clang
STRIP     ?= llvm-strip
BPFTOOL   ?= $(firstword $(shell command -v bpftool) $(wildcard /usr/sbin/bpftool /usr/lib/linux-tools/*/bpftool) bpftool)
ARCHES    := x86_64 aarch64
OBJECTS   := $(ARCHES:%=instrumenter/objects/probes.%.bpf.o)
BUILD     := build/bpf

# -mcpu=v3 (Linux 5.1): 32-bit arithmetic, and atomics that give the old value.
# -idirafter: <linux/bpf.h> wants asm/types.h, the same on both architectures, from the builder's own headers.
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v3 -Wall -Werror -Iprobes/include -idirafter /usr/include/$(shell uname -m)-linux-gnu
DEFINE_x86_64  := -D__TARGET_ARCH_x86
DEFINE_aarch64 := -D__TARGET_ARCH_arm64


V ?= 0
ifeq ($(V),1)
Q :=
say :=
else
Q := @
say = @printf '  %-8s %s\n' $(1) $(2);
endif

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup bpf check test unit kernel-test vm-test matrix demo bench clean

help:
	@echo "make setup        packages, .venv, probes; everything below needs it once"
	@echo "make check        style, types, import rules, size budgets: no root, no kernel headers"
	@echo "make test         the tests: units, this machine's kernel (root), Debian kernels in virtual machines"
	@echo "make demo         sample services, load and the live view, for DEMO_SECONDS (60)"
	@echo "make bpf          compile the probes for x86-64 and arm64"
	@echo "make matrix       every program against every other, and docs/support-matrix.md of it (root)"
	@echo "make unit | kernel-test | vm-test | bench | clean"

setup:
	$(Q)scripts/setup.sh

bpf: $(OBJECTS)

# One object per architecture, of one translation unit that includes every probe.
define architecture
instrumenter/objects/probes.$(1).bpf.o: probes/probes.bpf.c Makefile
	$$(call say,BPF,$$@)
	@mkdir -p $$(@D) $(BUILD)
	$$(Q)$$(CLANG) $$(BPF_CFLAGS) $$(DEFINE_$(1)) -MMD -MP -MT $$@ -MF $(BUILD)/$(1).d -c $$< -o $$@.tmp
	$$(Q)$$(STRIP) -g $$@.tmp
	$$(Q)mv $$@.tmp $$@

-include $(BUILD)/$(1).d
endef
$(foreach arch,$(ARCHES),$(eval $(call architecture,$(arch))))

check: $(PYTHON)
	$(Q)$(VENV)/bin/ruff check .
	$(Q)$(VENV)/bin/ruff format --check .
	$(Q)$(VENV)/bin/mypy
	$(Q)$(PYTHON) -m pytest -q tests/test_architecture.py

$(PYTHON):
	$(Q)scripts/setup.sh

test: setup
	$(Q)scripts/test.sh

unit: bpf
	$(Q)scripts/go_toolchains.sh
	$(Q)$(PYTHON) -m pytest -m "not kernel and not vm"

kernel-test: bpf
	$(Q)scripts/openssl11.sh
	$(Q)scripts/programs.sh
	$(Q)scripts/peers.sh
	$(Q)$(PYTHON) -m pytest -m kernel

vm-test: bpf
	$(Q)scripts/kernels.sh
	$(Q)scripts/openssl11.sh
	$(Q)scripts/programs.sh
	$(Q)$(PYTHON) -m pytest -m vm

# Of make test, the 45 programs against each other; then the page that says what came of it.
matrix: setup
	$(Q)scripts/go_toolchains.sh
	$(Q)scripts/programs.sh
	$(Q)scripts/peers.sh
	$(Q)$(PYTHON) -m pytest -m matrix; status=$$?; $(PYTHON) scripts/support_matrix.py && exit $$status

demo: setup
	$(Q)$(PYTHON) scripts/demo.py

bench: bpf
	$(Q)$(PYTHON) benchmarks/native.py
	$(Q)$(PYTHON) benchmarks/overhead.py

clean:
	$(Q)rm -rf $(BUILD) instrumenter/objects
