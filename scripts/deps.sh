#!/bin/bash
# scripts/deps.sh: installs the Debian packages that this project needs, and nothing when all are there.
#
#   scripts/deps.sh [build|test|demo|bench|fuzz|all ...]     (default: build)
#   scripts/deps.sh --list GROUP ...                         print the packages, install nothing
#
# Every verb of the Makefile calls it first, each with its own group, so that `make build` does not install haproxy.
# It needs root or sudo only when something is missing. No service is started by what it installs, now or at the next
# boot. NATRP_DEPS=skip leaves packages alone: for other distributions, or when somebody else looks after them.
set -euo pipefail

declare -A PACKAGES=(
  # Everything that meson.build looks for, and what turns it into programs.
  [build]="make g++ meson ninja-build pkg-config protobuf-compiler python3 ca-certificates git
           liburing-dev libmimalloc-dev libssl-dev libprotobuf-dev libsqlite3-dev libnghttp2-dev libcpp-httplib-dev
           nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libspdlog-dev libgtest-dev libgmock-dev
           libbenchmark-dev"
  # systemd without systemd-sysv: the tests boot one in namespaces of its own, and it is not made this machine's init.
  [test]="python3-pytest python3-grpcio openssl iproute2 procps strace util-linux systemd"
  [demo]="nginx curl procps"
  # The peers, the independent load generators, and the library that draws the plots.
  [bench]="haproxy nginx libnginx-mod-stream openssh-client openssh-server iperf3 wrk python3-matplotlib
           iproute2 ethtool procps strace curl"
  [fuzz]="clang libclang-rt-14-dev"
)
# What a package of the list above would start by itself; the tests and benches run their own instances.
declare -A SERVICES=([nginx]="nginx.service" [haproxy]="haproxy.service" [openssh-server]="ssh.service ssh.socket")

say() { printf 'deps: %s\n' "$*"; }
fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

packages_of() {
  local group
  for group in "$@"; do
    case "$group" in
      all) packages_of build test demo bench fuzz ;;
      build) echo ${PACKAGES[build]} ;;
      test|demo|bench|fuzz) echo ${PACKAGES[build]} ${PACKAGES[$group]} ;;
      *) fail "there is no group '$group'; the groups are: build test demo bench fuzz all" ;;
    esac
    # The gRPC test client of npm wants node. Whichever node is there already will do.
    if [[ $group == test || $group == all ]]; then
      command -v node >/dev/null || echo nodejs
      command -v npm >/dev/null || echo npm
    fi
  done
}

# Prints those of its arguments that are not installed, each once.
missing_of() {
  local -A installed=() seen=()
  local status package
  while read -r status package; do
    [[ $status == installed ]] && installed[$package]=1
  done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    [[ -n ${installed[$package]:-} || -n ${seen[$package]:-} ]] && continue
    seen[$package]=1
    echo "$package"
  done
}

# dpkg asks this file before it starts a service; 101 means no. One that is there already is the owner's own rule.
POLICY=/usr/sbin/policy-rc.d
policy_is_ours=no
forbid_starts() {
  [[ -e $POLICY ]] && return
  policy_is_ours=yes
  printf '#!/bin/sh\n# made by natrp-engine scripts/deps.sh for the time of one installation\nexit 101\n' |
    "${AS_ROOT[@]}" tee "$POLICY" >/dev/null
  "${AS_ROOT[@]}" chmod 755 "$POLICY"
}
allow_starts() {
  [[ $policy_is_ours == no ]] && return
  policy_is_ours=no
  "${AS_ROOT[@]}" rm -f "$POLICY"
}

apt() {
  "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}
# A package source that somebody added and that does not answer is not our concern: the install says what is missing.
update_lists() { apt update >/dev/null || say "some package sources did not answer (above); going on with the others"; }

list_only=no
if [[ ${1:-} == --list ]]; then list_only=yes; shift; fi
wanted_text=$(packages_of "${@:-build}")
read -r -d '' -a wanted <<<"$wanted_text" || true
if [[ $list_only == yes ]]; then printf '%s\n' "${wanted[@]}" | sort -u; exit 0; fi

if [[ ${NATRP_DEPS:-} == skip ]]; then exit 0; fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  fail "this machine is not Debian-like (no dpkg-query or apt-get), so packages cannot be installed for you." \
    "Install what these Debian packages contain, then set NATRP_DEPS=skip:" "${wanted[*]}"
fi

mapfile -t missing < <(missing_of "${wanted[@]}")
[[ ${#missing[@]} -eq 0 ]] && exit 0

AS_ROOT=()
if [[ $EUID -ne 0 ]]; then
  command -v sudo >/dev/null ||
    fail "these packages are missing and installing them needs root, but there is no sudo. As root, run:" \
      "apt-get install --no-install-recommends ${missing[*]}"
  AS_ROOT=(sudo)
fi

say "installing ${#missing[@]} Debian packages with apt-get: ${missing[*]}"
trap allow_starts EXIT
forbid_starts
compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || update_lists
if ! apt install --no-install-recommends "${missing[@]}" >/dev/null; then
  say "that failed; trying once more with fresh package lists"
  update_lists
  apt install --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "apt-get could not install the packages (its own message is above). They are those of Debian 12 (bookworm);" \
      "on another release install their equivalents yourself and set NATRP_DEPS=skip."
fi
allow_starts

# A service that came with a package of ours must not take its port at the next boot either.
if command -v systemctl >/dev/null; then
  for package in "${missing[@]}"; do
    for unit in ${SERVICES[$package]:-}; do
      "${AS_ROOT[@]}" systemctl disable --quiet "$unit" 2>/dev/null || true
    done
  done
fi
mapfile -t missing < <(missing_of "${wanted[@]}")
[[ ${#missing[@]} -eq 0 ]] || fail "apt-get reported success, but these are still not installed: ${missing[*]}"
say "done"
