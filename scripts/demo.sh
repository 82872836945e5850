#!/bin/bash
# scripts/demo.sh (make demo): a real service reached through a real tunnel, from a fresh clone, on this machine.
#
# Installs what is missing, builds, starts an edge with an empty state folder, adds a client, starts an agent and nginx
# with a page and a 64 MiB file; fetches both through the public port, kills the agent with -9 and sees it come back on
# the same port; drains everything, says what happened, and ends by itself. Everything is on 127.0.0.1, in one folder
# under /tmp that is removed at the end (NATRP_DEMO_KEEP=1 keeps it), and needs root only for missing packages.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"  # where nginx is, for those who are not root
export LC_ALL=C
unset NOTIFY_SOCKET  # our caller's service manager is not theirs
unset http_proxy all_proxy HTTP_PROXY ALL_PROXY

readonly FILE_MIB=64
readonly WAIT_SECONDS=30
readonly HOST=127.0.0.1

bash scripts/deps.sh demo
build=${NATRP_BUILD:-build}
build_log=$(mktemp)
printf 'building (the first time takes some minutes) ... '
began=$SECONDS
if ! bash scripts/build.sh "$build" --buildtype=release >"$build_log" 2>&1; then
  echo "failed:"
  tail -n 40 "$build_log"
  rm -f "$build_log"
  exit 1
fi
rm -f "$build_log"
echo "done in $((SECONDS - began)) s"
build=$(realpath "$build")

dir=$(mktemp -d /tmp/natrp-demo.XXXXXX)
chmod 711 "$dir"  # nginx's worker is nobody when we are root
edge_pid='' nginx_pid='' supervisor_pid=''
steps_done=0 bold='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi

# --- saying and waiting --------------------------------------------------------------------------------------------

step() {
  steps_done=$((steps_done + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$steps_done" "$1" "$plain"
}
say() { printf '   %s\n' "$*"; }

fail() {
  printf '\nThe demo failed: %s\n' "$*" >&2
  local log
  for log in edge.log agent.log agent.out nginx/error.log; do
    [[ -s $dir/$log ]] || continue
    printf -- '--- the end of %s\n' "$log" >&2
    tail -n 15 "$dir/$log" >&2
  done
  exit 1
}

# wait_until WHAT COMMAND...: until the command succeeds.
wait_until() {
  local what=$1 tries=$((WAIT_SECONDS * 50))
  shift
  until "$@"; do
    ((tries-- > 0)) || fail "no $what after $WAIT_SECONDS s"
    sleep 0.02
  done
}

alive() { kill -0 "$1" 2>/dev/null; }
now_ms() { date +%s%3N; }

# Ports that the kernel says are free.
free_ports() {
  /usr/bin/python3 - "$1" "$HOST" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind((sys.argv[2], 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

# --- the processes -------------------------------------------------------------------------------------------------

# The supervisor's own end: the agent drains, its exit code is in a file.
stop_agent() {
  local code=0
  if [[ -n $agent_pid ]]; then
    kill "$agent_pid" 2>/dev/null || true
    wait "$agent_pid" || code=$?
    echo "$code" >"$dir/agent.exit"
  fi
  exit 0
}

# What systemd does with Restart=always: the agent is started again whenever it ends. Its pid is in a file.
supervise_agent() {
  local agent_pid=''
  trap stop_agent TERM
  while true; do
    "$build/natrp" --server "$HOST:$edge_port" --token-file "$dir/token" --local "$HOST:$nginx_port" \
      >>"$dir/agent.out" 2>>"$dir/agent.log" &
    agent_pid=$!
    echo "$agent_pid" >"$dir/agent.pid.new"
    mv "$dir/agent.pid.new" "$dir/agent.pid"
    wait "$agent_pid" || true
    agent_pid=''
    sleep 0.2
  done
}

# end PID SECONDS: SIGTERM, and SIGKILL when that does not help. Sets exit_code.
end() {
  local pid=$1 tries=$(($2 * 50))
  exit_code=0
  kill "$pid" 2>/dev/null || true
  while alive "$pid" && ((tries-- > 0)); do sleep 0.02; done
  if alive "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
  wait "$pid" 2>/dev/null || exit_code=$?
}

cleanup() {
  local code=$?
  trap - EXIT INT TERM
  [[ -z $supervisor_pid ]] || end "$supervisor_pid" 5
  [[ -z $edge_pid ]] || end "$edge_pid" 5
  [[ -z $nginx_pid ]] || end "$nginx_pid" 5
  # When the supervisor itself had to be killed.
  if [[ -s $dir/agent.pid && $(readlink "/proc/$(<"$dir/agent.pid")/exe" 2>/dev/null) == "$build/natrp" ]]; then
    kill -9 "$(<"$dir/agent.pid")" 2>/dev/null || true
  fi
  if [[ -n ${NATRP_DEMO_KEEP:-} ]]; then echo "kept: $dir"; else rm -rf "$dir"; fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }
addresses() { sed -n 's/^public address: //p' "$dir/agent.out" 2>/dev/null || true; }
has_addresses() { [[ $(addresses | wc -l) -ge $1 ]]; }
edge_is_ready() { alive "$edge_pid" || fail "the edge ended by itself"; grep -q 'edge ready' "$dir/edge.log"; }
nginx_answers() {
  alive "$nginx_pid" || fail "nginx ended by itself"
  curl -sf -o /dev/null "http://$HOST:$nginx_port/"
}

# fetch PATH: through the public port, compared with the original. Sets mb_per_s.
fetch() {
  local got="$dir/fetched" speed
  speed=$(curl -sS --fail --max-time 60 -o "$got" -w '%{speed_download}' "http://$public$1") ||
    fail "curl could not fetch $1 from $public (its own message is above)"
  local want_sum got_sum
  want_sum=$(sha256_of "$dir/www$2")
  got_sum=$(sha256_of "$got")
  [[ $got_sum == "$want_sum" ]] || fail "$1 came through the tunnel changed: SHA-256 $got_sum instead of $want_sum"
  mb_per_s=$(awk -v bytes="$speed" 'BEGIN { printf "%.0f", bytes / 1e6 }')
  say "$(printf '%-12s %9d bytes  SHA-256 %s… the same on both sides' "$1" "$(stat -c %s "$got")" "${got_sum:0:16}")"
}

# --- what happens --------------------------------------------------------------------------------------------------

read -r edge_port nginx_port public_ports < <(free_ports 6)
public_ports=${public_ports// /,}

step "A service behind NAT: nginx with a page and a random file of $FILE_MIB MiB"
mkdir -p "$dir/www" "$dir/nginx"
echo '<!doctype html><title>natrp</title><h1>Hello from behind NAT</h1>' >"$dir/www/index.html"
head -c "$((FILE_MIB * 1024 * 1024))" /dev/urandom >"$dir/www/random.bin"
chmod 755 "$dir/www" && chmod 644 "$dir/www/"*
cat >"$dir/nginx/nginx.conf" <<NGINX
daemon off;
$([[ $EUID -ne 0 ]] || echo 'user nobody nogroup;')
worker_processes 1;
pid $dir/nginx/nginx.pid;
error_log $dir/nginx/error.log;
events { worker_connections 256; }
http {
  access_log $dir/nginx/access.log;
  client_body_temp_path $dir/nginx/body;
  proxy_temp_path $dir/nginx/proxy;
  fastcgi_temp_path $dir/nginx/fastcgi;
  uwsgi_temp_path $dir/nginx/uwsgi;
  scgi_temp_path $dir/nginx/scgi;
  sendfile on;
  server { listen $HOST:$nginx_port; root $dir/www; }
}
NGINX
nginx -p "$dir/nginx" -c "$dir/nginx/nginx.conf" -e "$dir/nginx/error.log" >>"$dir/nginx/error.log" 2>&1 &
nginx_pid=$!
wait_until "answer from nginx" nginx_answers
probes=$(wc -l <"$dir/nginx/access.log")
say "listens on $HOST:$nginx_port"

step "An edge with an empty state folder"
"$build/natrp-engine" --bind "$HOST:$edge_port" --public-bind "$HOST" --public-address "$HOST" --state "$dir/state" \
  --ports "$public_ports" --drain-seconds 5 >"$dir/edge.log" 2>&1 &
edge_pid=$!
wait_until "line 'edge ready' of the edge" edge_is_ready
say "agents reach it on $HOST:$edge_port; it made its own key and certificate"

step "A client, added while the edge runs"
"$build/natrpctl" --state "$dir/state" client add demo >"$dir/add.out" 2>"$dir/add.err" ||
  fail "natrpctl client add: $(cat "$dir/add.err")"
(umask 077; awk 'NF { word = $NF } END { print word }' "$dir/add.out" >"$dir/token")
say "join token $(head -c 12 "$dir/token")…, in a file that only we can read"

step "An agent beside the service, under a supervisor that starts it again when it ends"
supervise_agent 2>>"$dir/supervisor.log" &  # bash reports there who was killed
supervisor_pid=$!
wait_until "public address from the agent" has_addresses 1
public=$(addresses | tail -n 1)
agent_pid=$(<"$dir/agent.pid")
say "pid $agent_pid says: public address: $public"

step "A visitor fetches both through the public port"
fetch / /index.html
fetch /random.bin /random.bin
speed_first=$mb_per_s

step "The agent is killed with -9"
killed_ms=$(now_ms)
kill -9 "$agent_pid"
wait_until "public address from the agent that was started again" has_addresses 2
away_ms=$(($(now_ms) - killed_ms))
again=$(addresses | tail -n 1)
[[ $again == "$public" ]] || fail "the agent came back on $again instead of $public"
new_agent_pid=$(<"$dir/agent.pid")
[[ $new_agent_pid != "$agent_pid" ]] || fail "the agent was not killed: it is still pid $agent_pid"
say "pid $new_agent_pid is back on the same address $again after $away_ms ms"
fetch / /index.html
fetch /random.bin /random.bin

step "Everything is asked to stop (SIGTERM), and drains"
end "$supervisor_pid" 15
supervisor_pid=''
agent_exit=$(cat "$dir/agent.exit" 2>/dev/null || echo "none: it had to be killed")
[[ $agent_exit == 0 ]] || fail "the agent answered SIGTERM with exit code $agent_exit instead of 0"
end "$edge_pid" 15
edge_pid=''
[[ $exit_code == 0 ]] || fail "the edge answered SIGTERM with exit code $exit_code instead of 0"
served=$(($(wc -l <"$dir/nginx/access.log") - probes))
end "$nginx_pid" 5
nginx_pid=''
say "agent: exit code 0; edge: exit code 0"

cat <<SUMMARY

What happened
  visitor (curl) -> edge $public -> data channel -> agent -> nginx $HOST:$nginx_port
  fetched, SHA-256 equal       the page and the $FILE_MIB MiB file, before and after the kill
  speed of the file            $speed_first MB/s, then $mb_per_s MB/s (one stream, everything on this machine)
  agent killed with -9         back on the same public port after $away_ms ms (200 of them the supervisor's pause)
  requests that nginx saw      $served, all through the tunnel
  SIGTERM                      agent and edge drained and ended with exit code 0
The demo passed.
SUMMARY
