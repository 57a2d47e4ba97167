package sponsorships

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// hiddenName stands in the path where a name was.
const hiddenName = "-"

type nameKey struct{}

// hideNames takes friendly names, which most often are addresses of mail, out of
// paths, which are logged. There is one route with a name,
// …/self-hosted/{org}/{friendlyName}/revoke; what only looks like it is hidden as
// well. The name may have slashes: some gateways decode the path.
func hideNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before, name, after, found := cutName(r.URL.Path); found {
			r = r.Clone(context.WithValue(r.Context(), nameKey{}, name))
			r.URL.Path, r.URL.RawPath = before+hiddenName+after, ""
		}
		next.ServeHTTP(w, r)
	})
}

// unnamed are what stands in the place of a name in routes that have none.
var unnamed = []string{"families-for-enterprise", "delete", "sponsored", "sync"}

// cutName finds whatever may be a name in a path.
func cutName(in string) (before, name, after string, found bool) {
	segments := strings.Split(in, "/")
	at := slices.IndexFunc(segments, isSelfHosted)
	if at < 0 {
		return "", "", "", false
	}
	organization := at + 1
	for organization < len(segments) && segments[organization] == "" {
		organization++
	}
	if organization >= len(segments)-1 {
		return "", "", "", false
	}
	segments[at] = selfHosted
	name = strings.Join(segments[organization+1:], "/")
	if slices.Contains(unnamed, name) {
		return "", "", "", false
	}
	before = path.Clean("/"+strings.Join(segments[:organization+1], "/")) + "/"
	if named, ok := strings.CutSuffix(strings.TrimSuffix(name, "/"), "/revoke"); ok {
		return before, named, "/revoke", true
	}
	return before, name, "", true
}

const selfHosted = "self-hosted"

// isSelfHosted sees through escapes of escapes.
func isSelfHosted(segment string) bool {
	for {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == segment {
			return strings.EqualFold(segment, selfHosted)
		}
		segment = plain
	}
}

// friendlyName is the name that hideNames took out of the request's path.
func friendlyName(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}
