# SPDX-License-Identifier: GPL-2.0
# The one door to DAX-GUP. Everything that is made lies in the cache, ~/.cache/dax-gup.

FLAVOR ?= series
T := tools/dax-gup
export FLAVOR KSRC FORCE JOBS STOCK RECORD DEBUG FULL MINUTES CYCLES PHASES ROUNDS KERNELS
ifneq ($(filter-out series stock debug,$(FLAVOR)),)
$(error FLAVOR=$(FLAVOR): use series, stock or debug)
endif

.PHONY: help demo check soak bench tree export roundtrip image series bisect lint shell
.NOTPARALLEL:

help:
	@sed -n 's/^\#\# *//p' $(firstword $(MAKEFILE_LIST))

## DAX-GUP for Linux 7.3: direct I/O and DMA to persistent memory mapped with DAX
##
##   make demo       direct I/O between a disk and a DAX mapping, in a guest; FLAVOR=stock shows what the base lacks
##   make check      all tests; ends with "N passed, N failed"; STOCK=1 also holds the base to its recorded results
##   make soak       devices come and go under load, on the debug kernel; MINUTES=60, and until CYCLES=1000
##   make bench      what it costs, in instructions, against stock 7.3 and 6.12; writes a report with plots
##   make shell      an interactive guest with persistent memory, ndctl, mkfs, fio
##
##   make tree       base + series as the git branch dax-gup, one commit a patch; prints where
##   make export     that branch back into patches/ and the new files
##   make roundtrip  proves that both ways are exact
##   make image      builds the kernel and prints its path; FLAVOR=series|stock|debug
##   make series     the complete series as mails with a cover letter, and as a quilt tarball
##   make bisect     builds every patch on its predecessors, with the features on and off; FULL=1 spares nothing
##   make lint       checkpatch, sparse, coccinelle, kernel-doc, shellcheck, codespell
##
## Variables: FLAVOR=  KSRC=DIR (a 7.3 tree of your own)  FORCE=1 (tree, export)  JOBS=N  XDG_CACHE_HOME=DIR
tree export roundtrip:
	@$(T)/tree $@

soak: FLAVOR = debug
image series bisect lint check soak bench demo shell:
	@$(T)/$@
