# SPDX-License-Identifier: MIT
# The network, both ways.
#   belfry.port=P     fetch http://HOST:P/blob ...
#   belfry.sum=SHA    ... which must have this sum (default: that of /data/blob)
#   belfry.fetches=N  ... this often (default 1)
#   belfry.host=ADDR  the host as the guest sees it (default 10.0.2.2)
#   belfry.serve=no   leave out the other direction
# The other direction: the guest serves http on port 8080 and says "listen 8080".
# The host fetches /blob, and then /cgi-bin/done?SUM with the sum of what it got.
. /test/lib.sh

net_up
port=$(arg port '')
if [ -n "$port" ]; then
	want=$(arg sum "$(cut -d ' ' -f 1 /data/blob.sha256)")
	fetches=$(arg fetches 1)
	while [ "$fetches" -gt 0 ]; do
		fetches=$((fetches - 1))
		# Not wget -T: this busybox's wget dies of it.
		got=$(timeout 120 wget -q -O - "http://$(arg host 10.0.2.2):$port/blob" | sha256sum | cut -d ' ' -f 1)
		[ "$got" = "$want" ] || fail "fetched $got, should be $want ($fetches to go)"
		[ "$fetches" -eq 0 ] || tell net-fetches "$fetches to go"
	done
	tell net-fetched "$got"
fi

[ "$(arg serve yes)" = yes ] || exit 0
mkdir -p /tmp/www/cgi-bin
ln -s /data/blob /tmp/www/blob
mkfifo /tmp/done
cat >/tmp/www/cgi-bin/done <<'CGI'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\nthanks\n'
echo "$QUERY_STRING" >/tmp/done
CGI
chmod +x /tmp/www/cgi-bin/done
# Open for both, so that neither end blocks for want of the other.
exec 3<>/tmp/done
httpd -p 8080 -h /tmp/www || fail "cannot serve on port 8080"
tell listen 8080
read -r -t 120 got <&3 || fail "the host never said that it has the file"
want=$(sum_of /data/blob)
[ "$got" = "$want" ] || fail "the host got $got, should be $want"
tell net-served "$got"
