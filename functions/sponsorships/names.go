package sponsorships

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
)

// namedRoute is the one route with a friendly name in its path, which most often
// is an address of mail. The name may have slashes: some gateways decode the path.
var namedRoute = regexp.MustCompile(`^(.*/organization/sponsorship/self-hosted/[^/]+/)(.+)(/revoke/?)$`)

// hiddenName stands in the path where the name was.
const hiddenName = "-"

type nameKey struct{}

// hideNames takes friendly names out of paths, which are logged.
func hideNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if parts := namedRoute.FindStringSubmatch(r.URL.EscapedPath()); parts != nil {
			name, err := url.PathUnescape(parts[2])
			if err != nil {
				name = parts[2]
			}
			r = r.Clone(context.WithValue(r.Context(), nameKey{}, name))
			r.URL.Path, r.URL.RawPath = parts[1]+hiddenName+parts[3], ""
		}
		next.ServeHTTP(w, r)
	})
}

// friendlyName is the name that hideNames took out of the request's path.
func friendlyName(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}
