# The appliance's image. Included by the Makefile; needs root (debootstrap, mounts) and about 4 GB below CACHE.

IMAGE_CACHE := $(CACHE)/image
IMAGE_TOOLS := $(IMAGE_CACHE)/tools
IMAGE_OUT := $(IMAGE_CACHE)/out
IMAGE_STAGE := $(IMAGE_CACHE)/stage
# Secure Boot, PCR and update keys; an operator names a folder of their own.
KEYS ?= $(IMAGE_CACHE)/keys
# What the image calls itself, and what updates are compared by.
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE_DATE := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# `yes` makes an image that takes debug extensions; never a release.
DEBUG ?=

# What the image is made of, and where the one that was booted last is noted.
IMAGE_PARTS := image systemd node plugins Cargo.toml Cargo.lock rust-toolchain.toml
IMAGE_PASSED := $(IMAGE_CACHE)/passed

.PHONY: setup-image image-keys image-stage image image-debug image-debug-test image-boot image-changed image-test
.PHONY: image-measure

setup-image: setup ## install what the image needs: a Debian trixie with mkosi and QEMU, below CACHE
	@$(call install, debootstrap=debootstrap python3=python3 util-linux=unshare git=git)
	wanted=$$(sha256sum image/tools/tree | cut -c 1-16)
	if [[ $$(cat $(IMAGE_TOOLS)/.made 2>/dev/null) != "$$wanted" ]]; then
	    echo "making the tools tree of the image (about 2 minutes)"
	    mkdir -p $(IMAGE_CACHE)
	    nice image/tools/tree $(IMAGE_TOOLS) >$(IMAGE_CACHE)/tools.log 2>&1 ||
	        { tail -n 20 $(IMAGE_CACHE)/tools.log >&2; exit 1; }
	    echo "$$wanted" >$(IMAGE_TOOLS)/.made
	fi

image-keys: setup-image ## make a test set of keys in KEYS=DIR (never overwrites)
	@image/tools/keys $(IMAGE_TOOLS) $(KEYS)

image-stage: build image-keys
	@DEBUG=$(DEBUG) image/tools/stage $(IMAGE_TOOLS) $(CARGO_TARGET_DIR)/release $(KEYS) $(IMAGE_STAGE)

image: image-keys image-stage ## build the appliance's image (VERSION=..., KEYS=DIR)
	@DEBUG=$(DEBUG) image/tools/build $(IMAGE_CACHE) $(KEYS) $(VERSION) $(IMAGE_DATE)

image-debug: image-keys ## make the debug extension, for a stick of images that were made with DEBUG=yes
	@image/tools/extension $(IMAGE_TOOLS) $(KEYS) $(IMAGE_OUT) $(IMAGE_DATE)

image-debug-test: image ## build an image that takes debug extensions and one that does not, and try both
	@$(MAKE) --no-print-directory image DEBUG=yes
	$(MAKE) --no-print-directory image-debug
	image/test/scenarios.py $(IMAGE_TOOLS) $(IMAGE_OUT) $(IMAGE_CACHE)/test $(VERSION) debug_extension

image-boot: image ## build the image and boot it once, in QEMU
	@image/test/scenarios.py $(IMAGE_TOOLS) $(IMAGE_OUT) $(IMAGE_CACHE)/test $(VERSION) first_boot

image-changed: ## the same, if anything that the image is made of was changed since that passed
	@state=$$(git rev-parse $(IMAGE_PARTS:%=HEAD:%) | sha256sum | cut -c 1-64)
	if [[ -n $$(git status --porcelain -- $(IMAGE_PARTS)) ]]; then state=uncommitted; fi
	if [[ $$state != uncommitted && $$(cat $(IMAGE_PASSED) 2>/dev/null) == "$$state" ]]; then
	    echo "the image of this state was booted before"
	    exit
	fi
	$(MAKE) --no-print-directory image-boot
	echo "$$state" >$(IMAGE_PASSED)

# VERSION.2 is as good as VERSION; the node of VERSION.3 ends at once.
image-test: image policies ## build the image and two more versions, boot them in QEMU, prove what they promise (TESTS=names)
	@INITRD=keep image/tools/build $(IMAGE_CACHE) $(KEYS) $(VERSION).2 $(IMAGE_DATE)
	mv $(IMAGE_STAGE)/root/usr/bin/skerry $(IMAGE_STAGE)/
	cp $(IMAGE_TOOLS)/usr/bin/false $(IMAGE_STAGE)/root/usr/bin/skerry
	INITRD=keep image/tools/build $(IMAGE_CACHE) $(KEYS) $(VERSION).3 $(IMAGE_DATE)
	mv $(IMAGE_STAGE)/skerry $(IMAGE_STAGE)/root/usr/bin/skerry
	image/test/scenarios.py $(IMAGE_TOOLS) $(IMAGE_OUT) $(IMAGE_CACHE)/test $(VERSION) $(TESTS)

image-measure: image ## build a debug image too, boot it in QEMU and measure its hardening (CHECKER=program)
	@PROFILE=debug INITRD=keep image/tools/build $(IMAGE_CACHE) $(KEYS) $(VERSION) $(IMAGE_DATE)
	image/test/measure.py $(IMAGE_TOOLS) $(IMAGE_OUT) $(IMAGE_CACHE)/measured $(VERSION)
