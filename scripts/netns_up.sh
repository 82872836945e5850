#!/bin/bash
# scripts/netns_up.sh: two hosts made of network namespaces, joined by one veth cable.
#
#   scripts/netns_up.sh up   [--name NAME] [--mtu N] [--offloads on|off]     (natrp, 1500, on)
#   scripts/netns_up.sh down [--name NAME]
#
# `up` prints what it made as shell assignments, so that `eval "$(scripts/netns_up.sh up)"` knows it:
#   edge_netns=natrp-edge edge_address=10.88.0.1 edge_address6=fd88::1 edge_device=cable
#   agent_netns=natrp-agent agent_address=10.88.0.2 agent_address6=fd88::2 agent_device=cable
# Then: ip netns exec "$edge_netns" build/natrp-engine --bind "$edge_address:10022" ...
#
# Offloads off means that the kernel cuts the stream into packets of the MTU itself, as a network card without
# segmentation offload would make it do: a pipe of 64 KiB then holds 23 KiB (docs/operations.md). The names are the only
# thing that leaves the namespaces: several pairs may exist under several names. Needs root. A delay on the cable is the
# bench's own relay: not every kernel has netem.
set -euo pipefail

fail() { printf 'netns_up: %s\n' "$*" >&2; exit 1; }

action=${1:-}
[[ $action == up || $action == down ]] ||
  fail "say 'up' or 'down'; for example: scripts/netns_up.sh up --name natrp --mtu 1500 --offloads off"
shift
name=natrp mtu=1500 offloads=on
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  case "$1" in
    --name) name=$2 ;;
    --mtu) mtu=$2 ;;
    --offloads) offloads=$2 ;;
    *) fail "there is no option $1; the options are --name, --mtu and --offloads" ;;
  esac
  shift 2
done
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || fail "--name $name: lower-case letters, digits and dashes, please"
[[ $mtu =~ ^[0-9]+$ ]] && ((mtu >= 1280 && mtu <= 65535)) || fail "--mtu $mtu: a number from 1280 to 65535, please"
[[ $offloads == on || $offloads == off ]] || fail "--offloads $offloads: on or off, please"
[[ $EUID -eq 0 ]] || fail "network namespaces need root"
command -v ip >/dev/null || fail "there is no ip command; bash scripts/deps.sh bench installs it"

edge=$name-edge agent=$name-agent
exists() { ip netns list | grep -qE "^$1( |$)"; }

down() {
  local one
  for one in "$edge" "$agent"; do
    # The cable goes with its namespace. What still runs in there keeps the namespace alive, but without a cable.
    if exists "$one"; then ip -n "$one" link del cable 2>/dev/null || true; ip netns del "$one"; fi
  done
}

if [[ $action == down ]]; then down; exit 0; fi

if [[ $offloads == off ]]; then
  command -v ethtool >/dev/null || fail "--offloads off needs ethtool; bash scripts/deps.sh bench installs it"
fi
if exists "$edge" || exists "$agent"; then
  fail "there is a pair of the name '$name' already: end it with 'scripts/netns_up.sh down --name $name', or choose" \
    "another --name"
fi

trap 'code=$?; if ((code != 0)); then down; fi' EXIT
ip netns add "$edge"
ip netns add "$agent"
ip -n "$edge" link add cable mtu "$mtu" type veth peer name cable mtu "$mtu" netns "$agent"
number=1
for one in "$edge" "$agent"; do
  ip -n "$one" address add "10.88.0.$number/30" dev cable
  ip -n "$one" address add "fd88::$number/64" dev cable nodad
  ip -n "$one" link set lo up
  ip -n "$one" link set cable up
  ip netns exec "$one" sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true
  if [[ $offloads == off ]]; then
    ip netns exec "$one" ethtool -K cable tso off gso off gro off
    # A driver may keep what it cannot do without: then a result would claim what was not so.
    left=$(ip netns exec "$one" ethtool -k cable |
      grep -E '^(tcp-segmentation-offload|generic-segmentation-offload|generic-receive-offload): on' || true)
    [[ -z $left ]] || fail "the kernel kept offloads on in $one: $left"
  fi
  number=$((number + 1))
done
printf '%s_netns=%s %s_address=10.88.0.%s %s_address6=fd88::%s %s_device=cable\n' \
  edge "$edge" edge 1 edge 1 edge agent "$agent" agent 2 agent 2 agent
