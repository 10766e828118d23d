#!/bin/sh
# Starts HAProxy for Ray Serve, as `haproxy -db -f CONFIG ...`, with what Serve's configuration lacks:
# - its folder, with the socket that controls it, is closed to other users, and its parent folder is the user's own;
# - its pages of statistics and metrics are left out: they would listen on fixed ports, on every address;
# - replicas learn the client's address, for requests that stay with one version of a model;
# - with FERRY_TLS_CERTIFICATE, a file with a certificate and its key, it speaks HTTPS;
# - nothing is spliced: with that, one in four clients that went away was not noticed, and its request went on;
# - without a replica it answers 503 and Retry-After, not 500; without an application too, not 404;
# - a request has to arrive in time, at most FERRY_UPLOAD_SECONDS, or it is answered 408: without that, a client could
#   keep a connection for ever. It is sent to a replica when it has arrived, as far as the buffer holds it, and to
#   another one if that dies;
# - requests and responses follow the rules in cluster/haproxy_rules.cfg;
# - a second HAProxy listens on the same port (cluster/haproxy_second.sh): the service outlives the first one. When Serve
#   replaces that one, it learns of the applications a moment after its start; until then only the second one listens;
# - it ends with the process that started it. Otherwise it survives a killed server, and keeps the port.
set -eu
config=$3
folder=$(dirname "$config") here=$(dirname "$0")
parent=$(dirname "$folder")
if [ -L "$parent" ] || [ ! -O "$parent" ]; then
    echo "$parent is not this user's own folder: remove it, or set TMPDIR" >&2
    exit 1
fi
chmod 700 "$folder"
sed -i -e 's/^    option httplog$/&\n    option forwardfor/' \
    -e "s|^    option abortonclose|&\n    option http-buffer-request\n    timeout http-request ${FERRY_UPLOAD_SECONDS:-30}s|" \
    -e "s|^    errorfile 503 .*|&\n    errorfile 408 $folder/408.http|" \
    -e '/^frontend prometheus/,/no log/d' -e '/^listen stats/,$d' -e '/option splice-/d' \
    -e "/^frontend http_frontend/,/^    bind/{ /^    bind/r $here/haproxy_rules.cfg
    }" "$config"
if [ -n "${FERRY_TLS_CERTIFICATE:-}" ]; then
    sed -i '/^frontend http_frontend/,/^    bind/s|^    bind.*|& ssl crt "${FERRY_TLS_CERTIFICATE}" alpn http/1.1|' "$config"
fi

waits=
if ! grep -q '^    use_backend ' "$config"; then # no application
    answer="503 content-type application/json string '{\"detail\":\"no application is ready; try again\"}'"
    sed -i "s|^    http-request return status 404 .*|    http-request return status $answer hdr Retry-After 1|" "$config"
    old=$(cat "$folder/second.pid" 2>/dev/null || true)
    if [ $# -eq 3 ] && grep -qs "$folder/second.cfg" "/proc/$old/cmdline"; then
        waits=yes # it does not take over from an HAProxy, and the second one takes the requests
        sed -i '/^frontend http_frontend/,/^    bind/{ /^    bind/d }' "$config"
    fi
fi

# A response of HAProxy itself: status, reason, further header, detail.
response() {
    body="{\"detail\":\"$4\"}"
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$1 $2" "$3" ${#body} "$body"
}
response 503 "Service Unavailable" "Retry-After: 1" "no replica is ready; try again" >"$folder/500.http"
response 408 "Request Timeout" "Cache-Control: no-cache" "the request took too long to arrive" >"$folder/408.http"

if command -v setpriv >/dev/null; then
    echo $$ >"$folder/first.pid"
    if [ -z "$waits" ]; then
        sed "s|/admin.sock |/second.sock |" "$config" >"$folder/second.cfg"
        # In a session of its own: Ray ends the process group of a manager that it replaces.
        setsid sh "$here/haproxy_second.sh" "$folder" $PPID </dev/null >/dev/null 2>&1 &
    fi
    exec setpriv --pdeathsig TERM "$FERRY_HAPROXY" "$@"
fi
exec "$FERRY_HAPROXY" "$@"
