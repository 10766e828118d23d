#!/bin/sh
# Runs a second HAProxy beside the first one, on the same port and with the same configuration: FOLDER, and the process
# MANAGER of Ray Serve that has started both. If the first one is killed, Serve replaces its manager within seconds, which
# starts two new ones; until then, this one takes all connections. It takes over from its predecessor, as HAProxy does,
# and ends when Serve has ended: with Ray on this machine (the manager's parent), or first one and manager together.
set -eu
folder=$1 manager=$2
ray=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$manager/status")
REPLACED_WITHIN=30

# Whether a process runs, and is no zombie.
runs() { grep -qs '^State:[[:space:]]*[A-WYa-z]' "/proc/$1/status"; }

takeover=
if old=$(cat "$folder/second.pid" 2>/dev/null) && runs "$old"; then
    takeover="-sf $old -x $folder/second.sock"
fi
# shellcheck disable=SC2086
setpriv --pdeathsig TERM "$FERRY_HAPROXY" -db -f "$folder/second.cfg" $takeover &
second=$!
echo $second >"$folder/second.pid"

left=0
while runs $second && runs "$ray" && [ $left -ge 0 ]; do
    sleep 1
    if runs "$(cat "$folder/first.pid")"; then
        left=0
    elif runs "$manager"; then
        left=$REPLACED_WITHIN
    else
        left=$((left - 1))
    fi
done
kill $second 2>/dev/null || true
runs "$ray" || rm -rf "$folder"
