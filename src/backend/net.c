/* SPDX-License-Identifier: MIT
 * What all network back-ends have in common.
 */
#include "backend/net_priv.h"
#include <arpa/inet.h>

bool net_deliver(struct net *n, const void *frame, size_t len)
{
	return !n->client.receive || n->client.receive(n->client.arg, frame, len);
}

void net_set_client(struct net *n, const struct net_client *c)
{
	n->client = c ? *c : (struct net_client){ 0 };
	if (!c)
		n->ops->flush(n);
}

int net_send(struct net *n, const struct iovec *iov, int nr)
{
	uint64_t len = 0;

	for (int i = 0; i < nr; i++)
		if (add_overflows(len, iov[i].iov_len, &len))
			return -EMSGSIZE;
	if (len < NET_MIN_FRAME || len > NET_MAX_FRAME)
		return -EMSGSIZE;
	return n->ops->send(n, iov, nr, len);
}

void net_resume(struct net *n)
{
	n->ops->resume(n);
}

void net_destroy(struct net *n)
{
	if (n)
		n->ops->destroy(n);
}

/* "[addr]:port" up to len characters. */
static int endpoint_parse(const char *s, size_t len, uint32_t *addr, uint16_t *port)
{
	char text[64], *colon;
	struct in_addr in = { 0 };
	uint64_t v;

	if (len >= sizeof(text))
		return -EINVAL;
	memcpy(text, s, len);
	text[len] = '\0';
	colon = strchr(text, ':');
	if (!colon)
		return -EINVAL;
	*colon = '\0';
	if (text[0] && inet_pton(AF_INET, text, &in) != 1)
		return -EINVAL;
	if (number_parse(colon + 1, 1, 65535, &v))
		return -EINVAL;
	*addr = in.s_addr;
	*port = (uint16_t)v;
	return 0;
}

int hostfwd_parse(struct hostfwd *f, const char *spec, struct err *e)
{
	const char *host = strchr(spec, ':'), *dash;

	*f = (struct hostfwd){ 0 };
	if (!strncmp(spec, "udp:", 4))
		f->udp = true;
	else if (strncmp(spec, "tcp:", 4))
		return err_set(e, -EINVAL, "hostfwd=%s: it must begin with tcp: or udp:, as in "
			       "tcp::2222-:22", spec);
	host++;
	dash = strchr(host, '-');
	if (!dash)
		return err_set(e, -EINVAL, "hostfwd=%s: no '-' between host and guest, as in "
			       "tcp::2222-:22", spec);
	if (endpoint_parse(host, (size_t)(dash - host), &f->host_addr, &f->host_port))
		return err_set(e, -EINVAL, "hostfwd=%s: \"%.*s\" is no [IPv4 address]:port of the "
			       "host, as in 127.0.0.1:2222", spec, (int)(dash - host), host);
	if (endpoint_parse(dash + 1, strlen(dash + 1), &f->guest_addr, &f->guest_port))
		return err_set(e, -EINVAL, "hostfwd=%s: \"%s\" is no [IPv4 address]:port of the "
			       "guest, as in :22", spec, dash + 1);
	return 0;
}
