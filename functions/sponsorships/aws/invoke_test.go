package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const org = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"

func account() aws.Config {
	return aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "hunter2", "session")}
}

func invokerTo(t *testing.T, function string, handler http.HandlerFunc) *invoker {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	i, err := newInvoker(account(), function, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAnInvocationIsSignedAndAsynchronous(t *testing.T) {
	for _, function := range []string{"latchkey-billingsync", "arn:aws:lambda:eu-central-1:123456789012:function:latchkey-billingsync:live"} {
		var got *http.Request
		var body string
		i := invokerTo(t, function, func(w http.ResponseWriter, r *http.Request) {
			content, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			got, body = r, string(content)
			w.WriteHeader(http.StatusAccepted)
		})
		if err := i.kick(t.Context(), org); err != nil {
			t.Fatal(err)
		}
		if got.Method != http.MethodPost || got.URL.Path != "/2015-03-31/functions/"+function+"/invocations" || body != `{"organization":"`+org+`"}` {
			t.Errorf("%s %s %s", got.Method, got.URL, body)
		}
		if got.Header.Get("X-Amz-Invocation-Type") != "Event" || got.Header.Get("X-Amz-Security-Token") != "session" {
			t.Errorf("%v", got.Header)
		}
		signed := got.Header.Get("Authorization")
		for _, part := range []string{"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/", "/eu-central-1/lambda/aws4_request", "x-amz-invocation-type", "Signature="} {
			if !strings.Contains(signed, part) {
				t.Errorf("there is no %s in %s", part, signed)
			}
		}
		if strings.Contains(signed+body, "hunter2") {
			t.Error("the request has the secret key")
		}
	}
}

func TestWhatLambdaRefuses(t *testing.T) {
	for status, class := range map[int]fault.Class{
		http.StatusOK: fault.Invalid, http.StatusBadRequest: fault.Invalid, http.StatusForbidden: fault.Denied, http.StatusNotFound: fault.NotFound,
		http.StatusTooManyRequests: fault.Transient, http.StatusInternalServerError: fault.Transient, http.StatusTemporaryRedirect: fault.Invalid,
	} {
		i := invokerTo(t, "f", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "not allowed "+strings.Repeat("x", 10_000))
		})
		err := i.kick(t.Context(), org)
		if fault.Of(err) != class || !strings.Contains(err.Error(), "not allowed") || len(err.Error()) > 1_000 {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestAnInvocationThatDoesNotGetThrough(t *testing.T) {
	i := invokerTo(t, "f", nil)
	i.url = "http://127.0.0.1:1/"
	if err := i.kick(t.Context(), org); fault.Of(err) != fault.Transient {
		t.Error(err)
	}
	i = invokerTo(t, "f", func(http.ResponseWriter, *http.Request) { t.Error("it is sent") })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.kick(ended, org); fault.Of(err) != fault.Transient {
		t.Error(err)
	}
}

func TestWhereLambdaIs(t *testing.T) {
	own := account()
	own.BaseEndpoint = aws.String("http://localhost:4566/")
	china := account()
	china.Region = "cn-north-1"
	for _, c := range []struct {
		account        aws.Config
		endpoint, want string
	}{
		{account(), "", "https://lambda.eu-central-1.amazonaws.com/2015-03-31/functions/f/invocations"},
		{china, "", "https://lambda.cn-north-1.amazonaws.com.cn/2015-03-31/functions/f/invocations"},
		{own, "", "http://localhost:4566/2015-03-31/functions/f/invocations"},
		{own, "http://localhost:9000", "http://localhost:9000/2015-03-31/functions/f/invocations"},
	} {
		if i, err := newInvoker(c.account, "f", c.endpoint); err != nil || i.url != c.want {
			t.Errorf("%v, %v", i, err)
		}
	}
	for _, endpoint := range []string{"lambda", "://", "\x7f"} {
		if _, err := newInvoker(account(), "f", endpoint); fault.Of(err) != fault.Invalid {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
	nobody := account()
	nobody.Credentials = nil
	if _, err := newInvoker(nobody, "f", ""); fault.Of(err) != fault.Invalid {
		t.Error(err)
	}
}
