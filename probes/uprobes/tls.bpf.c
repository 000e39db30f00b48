// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* Functions of TLS libraries, at their entries and returns; the cookie's lower half says which (enum tls_call). One program, as each
 * that parses is verified apart. */
#include "go.h"
#include "upstream.h"
#include <bpf/bpf_tracing.h>

SEC("uprobe")
int tls_call(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	u32 call = cookie, svc = watched();

	if (!svc)
		return 0;
	if ((call & TLS_KIND) == TLS_FREE)
		on_tls_free(PT_REGS_PARM1(ctx));
	else if (call == TLS_PEER)
		on_peer_wanted(PT_REGS_PARM1(ctx));
	else if (call == (TLS_PEER | TLS_RETURN))
		on_peer_chosen(current_tgid());
	else if (call >= TLS_GO_READ && call <= TLS_GO_BORN)
		on_go_call(ctx, call, cookie >> 32, svc);
	else
		on_tls_call(ctx, call, svc);
	return 0;
}
