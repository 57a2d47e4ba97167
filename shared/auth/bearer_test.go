package auth_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestBearer(t *testing.T) {
	for _, test := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"as clients send it", []string{"Bearer a.b.c"}, "a.b.c"},
		{"the scheme in any case", []string{"bEARER a.b.c"}, "a.b.c"},
		{"more spaces", []string{"Bearer   a.b.c "}, "a.b.c"},
		{"all characters", []string{"Bearer aZ09-._~+/=="}, "aZ09-._~+/=="},
		{"the longest", []string{"Bearer " + strings.Repeat("a", 16*1024)}, strings.Repeat("a", 16*1024)},

		{"no header", nil, ""},
		{"an empty header", []string{""}, ""},
		{"only the scheme", []string{"Bearer"}, ""},
		{"only the scheme, with a space", []string{"Bearer "}, ""},
		{"no scheme", []string{"a.b.c"}, ""},
		{"another scheme", []string{"Basic YTpi"}, ""},
		{"a scheme that begins alike", []string{"BearerToken a.b.c"}, ""},
		{"a tab", []string{"Bearer\ta.b.c"}, ""},
		{"two headers", []string{"Bearer a.b.c", "Bearer a.b.c"}, ""},
		{"two tokens", []string{"Bearer a.b.c d.e.f"}, ""},
		{"a list", []string{"Bearer a.b.c, Bearer d.e.f"}, ""},
		{"parameters", []string{`Bearer token="a.b.c"`}, ""},
		{"a control character", []string{"Bearer a.b\n.c"}, ""},
		{"what is not ASCII", []string{"Bearer ä.b.c"}, ""},
		{"what is not UTF-8", []string{"Bearer \xff.b.c"}, ""},
		{"too long", []string{"Bearer " + strings.Repeat("a", 16*1024+9)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Authorization"] = test.headers
			got, err := auth.Bearer(r)
			class := fault.Unauthenticated
			if test.want != "" {
				class = ""
			}
			expect(t, err, class, "")
			if got != test.want {
				t.Errorf("token is %q", got)
			}
		})
	}
}

func TestAuthenticate(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	r := httptest.NewRequest("GET", "/user-keys", nil)
	_, err := v.Authenticate(r, keyConnector)
	expect(t, err, fault.Unauthenticated, "")
	if server.asked.Load() != 0 {
		t.Error("the identity server was asked because of a request without a token")
	}
	r.Header.Set("Authorization", "Bearer "+server.mint(t, devidentity.Claims{}))
	token, err := v.Authenticate(r, keyConnector)
	expect(t, err, "", "")
	if token.Subject != user {
		t.Errorf("token is %+v", token)
	}
}
