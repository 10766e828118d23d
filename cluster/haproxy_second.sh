#!/bin/sh
# Runs a second HAProxy beside the first one, on the same port and with the same configuration: FOLDER, and the process
# MANAGER of Ray Serve that has started both. If the first one is killed, Serve replaces its manager within seconds, which
# starts two new ones; until then, this one takes all connections. It takes over from its predecessor, as HAProxy does,
# and is started again if it is killed itself. It ends when Serve has ended: with Ray on this machine (the manager's
# parent), or first one and manager together.
set -eu
folder=$1 manager=$2
ray=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$manager/status")
# In looks, two a second. A manager whose HAProxy was killed lives for two seconds more; one that stops Serve, for less.
TOGETHER=3 REPLACED=60

# Whether a process runs, and is no zombie.
runs() {
    while read -r name value _; do
        if [ "$name" = State: ]; then
            [ "$value" != Z ] && return
            break
        fi
    done <"/proc/$1/status"
    return 1
}

# Starts HAProxy; with options, it takes over from another one.
start() {
    setpriv --pdeathsig TERM "$FERRY_HAPROXY" -db -f "$folder/second.cfg" "$@" 9>&- &
    second=$!
    echo $second >"$folder/second.pid"
}

exec 9>"$folder/second.lock" # each has a second to start before the next one takes over
flock 9
if read -r old <"$folder/second.pid" && grep -qs "$folder/second.cfg" "/proc/$old/cmdline"; then
    start -sf "$old" -x "$folder/second.sock"
    sleep 1
    runs $second || start -sf "$old" # it does not hand over its socket
else
    start
    sleep 1
fi
exec 9>&-

alone=0 # looks since the first one has ended
while runs "$ray"; do
    sleep 0.5
    if ! runs $second; then
        read -r newest <"$folder/second.pid" && [ "$newest" = $second ] || break # its successor runs
        start
    fi
    read -r first <"$folder/first.pid" || first=0
    if runs "$first"; then
        alone=0
    elif runs "$manager"; then
        [ $alone -eq $TOGETHER ] || alone=$((alone + 1))
    elif [ $alone -ge $TOGETHER ] && [ $alone -le $REPLACED ]; then
        alone=$((alone + 1))
    else
        break
    fi
done
kill $second 2>/dev/null || true
runs "$ray" || rm -rf "$folder"
