#!/bin/sh
# Two machines on one, which differ in their IPC namespaces as two containers do: on one a C program sends
# orders, on the other a PHP program answers them, and between them are two bridges and a NATS
# server. It needs chanmq, nats-server, php with sysvmsg, cc and unshare.
#
#   two-machines.sh [ORDERS]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
orders=${1:-100}
work=$(mktemp -d)
shm=$(mktemp -d /dev/shm/chanmq-two-machines-XXXXXX)
port=$((20000 + $$ % 20000))
url=nats://127.0.0.1:$port
pids=
# shellcheck disable=SC2086 # several pids
trap 'kill $pids 2>/dev/null || true; wait; rm -rf "$work" "$shm"' EXIT
namespace="unshare --ipc"
[ "$(id -u)" = 0 ] || namespace="unshare --user --map-root-user --ipc"

# machine NAME OUT IN COMMAND...: a bridge, and a program beside it.  It is a subshell's last command.
machine() {
	name=$1 out=$2 in=$3
	shift 3
	exec $namespace sh -c '
		chanmq bridge 0x4d51 --create --nats "$1" --out "$2" --in "$3" --dir "$4" 2>"$5" &
		bridge=$!
		shift 5
		until chanmq stat 0x4d51 >/dev/null 2>&1; do sleep 0.1; done
		"$@" &
		program=$!
		trap "kill $program $bridge 2>/dev/null" TERM
		code=0
		wait $program || code=$?
		kill $bridge 2>/dev/null || true
		wait $bridge || true
		exit $code' sh "$url" "$out" "$in" "$shm/$name" "$work/$name.log" "$@"
}

cc -o "$work/client" "$here/client.c"
nats-server -js -sd "$work/nats" -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
pids="$pids $!"
machine b 2 1 php "$here/server.php" &
pids="$pids $!"
(machine a 1 2 "$work/client" "$orders") || { cat "$work"/*.log >&2; exit 1; }
