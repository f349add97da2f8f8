package accounts

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddress is whom to count a request against: the peer's address or,
// behind a trusted proxy, the last one in X-Forwarded-For, which that proxy
// has written itself. An IPv6 address stands for its /64: one client has them
// all.
func ClientAddress(r *http.Request, trustProxy bool) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if trustProxy {
		if last, lastErr := netip.ParseAddr(lastForwarded(r)); lastErr == nil {
			addr, err = last, nil
		}
	}
	if err != nil {
		return host
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}

func lastForwarded(r *http.Request) string {
	values := r.Header.Values("X-Forwarded-For")
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	return strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
}
