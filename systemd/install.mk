# The node on a server that was not flashed. Included by the Makefile.

PREFIX ?= /usr
DESTDIR ?=
CARGO_DEB := 3.8.0

UNITS := $(wildcard systemd/*.service systemd/*.socket systemd/*.timer)
INSTALL_LIB := $(DESTDIR)$(PREFIX)/lib
# The units name programs where a package has them.
RELOCATE := sed -e 's|/usr/bin/skerry|$(PREFIX)/bin/skerry|g' -e 's|/usr/lib/skerry/|$(PREFIX)/lib/skerry/|g' \
    -e 's|/usr/share/doc/skerry/|$(PREFIX)/share/doc/skerry/|g'

.PHONY: install setup-deb deb

install: build ## install the node and its units, on this server or below DESTDIR (PREFIX is /usr)
	@install -D -m 755 -s $(SKERRY_BIN) $(DESTDIR)$(PREFIX)/bin/skerry
	install -D -m 755 -s $(CARGO_TARGET_DIR)/release/skerry-box $(INSTALL_LIB)/skerry/skerry-box
	install -d $(INSTALL_LIB)/systemd/system
	for unit in $(UNITS) systemd/*.service.d/*.conf; do
	    target=$(INSTALL_LIB)/systemd/system/$${unit#systemd/}
	    install -D -m 644 "$$unit" "$$target"
	    if [[ $(PREFIX) != /usr ]]; then $(RELOCATE) "$$unit" >"$$target"; fi
	done
	install -D -m 644 systemd/sysusers.d/skerry.conf $(INSTALL_LIB)/sysusers.d/skerry.conf
	install -D -m 644 systemd/tmpfiles.d/skerry.conf $(INSTALL_LIB)/tmpfiles.d/skerry.conf
	install -D -m 644 systemd/server/tmpfiles.conf $(INSTALL_LIB)/tmpfiles.d/skerry-server.conf
	install -D -m 644 systemd/server/80-skerry.preset $(INSTALL_LIB)/systemd/system-preset/80-skerry.preset
	install -D -m 644 node/docs/manual.md $(DESTDIR)$(PREFIX)/share/doc/skerry/manual.md
	config=$(DESTDIR)/etc/skerry/skerry.toml
	if [[ ! -e $$config ]]; then
	    install -d -m 750 $(DESTDIR)/etc/skerry
	    $(SKERRY_BIN) config default >"$$config"
	    chmod 640 "$$config"
	fi
	if [[ -z "$(DESTDIR)" ]]; then
	    systemd-sysusers $(PREFIX)/lib/sysusers.d/skerry.conf
	    systemd-tmpfiles --create $(PREFIX)/lib/tmpfiles.d/skerry.conf $(PREFIX)/lib/tmpfiles.d/skerry-server.conf
	    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
	    echo "Write /etc/skerry/skerry.toml, then: systemctl enable --now skerry"
	fi

setup-deb: setup
	@if [[ $$(cargo deb --version 2>/dev/null) != "cargo-deb $(CARGO_DEB)" ]]; then
	    echo "installing cargo-deb $(CARGO_DEB)"
	    cargo install --locked --root $(CACHE) cargo-deb@$(CARGO_DEB)
	fi

deb: build setup-deb ## make a Debian package of the node, in CACHE/deb
	@$(SKERRY_BIN) config default >$(CARGO_TARGET_DIR)/release/skerry.toml
	mkdir -p $(CACHE)/deb
	cargo deb --no-build --strip -p skerry --output $(CACHE)/deb/
