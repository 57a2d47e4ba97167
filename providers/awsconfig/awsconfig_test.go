package awsconfig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const secret = "the-secret-access-key"

// alone keeps the machine's own AWS settings out of a test.
func alone(t *testing.T) {
	for _, name := range []string{
		"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
		"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_NEW_RETRIES_2026",
	} {
		t.Setenv(name, "")
	}
}

func TestAFunctionHasWhatIsGivenOrWhatLambdaPutsIntoTheEnvironment(t *testing.T) {
	lambda := map[string]string{
		"AWS_REGION": "ap-south-1", "AWS_ACCESS_KEY_ID": "from-env", "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "session",
	}
	for _, test := range []struct {
		name                string
		config              Config
		region, id, session string
	}{
		{"nothing is given", Config{}, "ap-south-1", "from-env", "session"},
		{"a region is given", Config{Region: "eu-west-1"}, "eu-west-1", "from-env", "session"},
		{"credentials are given", Config{AccessKeyID: "AKID", SecretAccessKey: secret}, "ap-south-1", "AKID", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range lambda {
				t.Setenv(name, value)
			}
			loaded, err := FromEnvironment(test.config)
			if err != nil {
				t.Fatal(err)
			}
			got, err := loaded.Credentials.Retrieve(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if loaded.Region != test.region || got.AccessKeyID != test.id || got.SecretAccessKey != secret || got.SessionToken != test.session {
				t.Errorf("region %q, key %q and session %q", loaded.Region, got.AccessKeyID, got.SessionToken)
			}
		})
	}
}

func TestAFaultyConfigurationIsInvalidAndNamesWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name   string
		config Config
		want   string
	}{
		{"an id without its secret", Config{Region: "eu-west-1", AccessKeyID: "AKID"}, "set both, or neither"},
		{"a secret without its id", Config{Region: "eu-west-1", SecretAccessKey: secret}, "set both, or neither"},
		{"no region", Config{AccessKeyID: "AKID", SecretAccessKey: secret}, "AWS_REGION"},
		{"no credentials anywhere", Config{Region: "eu-west-1"}, "AWS_ACCESS_KEY_ID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			alone(t)
			_, err := FromEnvironment(test.config)
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v: want class invalid and %q", err, test.want)
			}
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Error("the error tells the secret")
			}
		})
	}
}

// The SDK's variables for the kind of address go on to hold.
func TestTheAddressOfAServiceFollowsTheSDKsVariables(t *testing.T) {
	for _, test := range []struct{ variable, value, want string }{
		{"AWS_USE_FIPS_ENDPOINT", "", "kms.us-east-1.amazonaws.com"},
		{"AWS_USE_FIPS_ENDPOINT", "true", "kms-fips.us-east-1.amazonaws.com"},
		{"AWS_USE_DUALSTACK_ENDPOINT", "true", "kms.us-east-1.api.aws"},
		{"AWS_USE_DUALSTACK_ENDPOINT", "false", "kms.us-east-1.amazonaws.com"},
		{"AWS_USE_FIPS_ENDPOINT", "perhaps", "choose true or false"},
	} {
		t.Run(test.variable+"="+test.value, func(t *testing.T) {
			alone(t)
			t.Setenv(test.variable, test.value)
			loaded, err := FromEnvironment(Config{Region: "us-east-1", AccessKeyID: "AKID", SecretAccessKey: secret})
			if err == nil {
				err = describe(t.Context(), kms.NewFromConfig(loaded, func(o *kms.Options) { o.HTTPClient, o.RetryMaxAttempts = hostTeller{}, 1 }))
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

// hostTeller fails with the host that a request is for.
type hostTeller struct{}

func (hostTeller) Do(r *http.Request) (*http.Response, error) {
	return nil, errors.New("asked " + r.URL.Host)
}

func TestAPrintedConfigurationHasNoCredentials(t *testing.T) {
	c := Config{Region: "eu-west-1", AccessKeyID: "AKID", SecretAccessKey: secret}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("start", "aws", c)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c), log.String()} {
		if strings.Contains(text, secret) || strings.Contains(text, "AKID") || !strings.Contains(text, "eu-west-1") {
			t.Errorf("printed as %s", text)
		}
	}
}

// answering is a KMS whose nth request (from 1) is answered by answer.
func answering(t *testing.T, answer func(n int64, w http.ResponseWriter)) (*kms.Client, *atomic.Int64) {
	t.Helper()
	alone(t)
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(calls.Add(1), w)
	}))
	t.Cleanup(server.Close)
	loaded, err := FromEnvironment(Config{Region: "eu-west-1", AccessKeyID: "AKID", SecretAccessKey: secret})
	if err != nil {
		t.Fatal(err)
	}
	return kms.NewFromConfig(loaded, func(o *kms.Options) { o.BaseEndpoint = aws.String(server.URL) }), &calls
}

func describe(ctx context.Context, client *kms.Client) error {
	_, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("k")})
	return err
}

func fails(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"__type":%q}`, code)
}

func drops(w http.ResponseWriter) {
	if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = connection.Close()
	}
}

func TestWhatPassesIsRetriedAndWhatDoesNotIsNot(t *testing.T) {
	good := func(w http.ResponseWriter) { fmt.Fprint(w, `{"KeyMetadata":{"KeyId":"k"}}`) }
	for _, test := range []struct {
		name   string
		answer func(n int64, w http.ResponseWriter)
		calls  int64
		ok     bool
	}{
		{"throttled three times, then answered", func(n int64, w http.ResponseWriter) {
			if n <= 3 {
				fails(w, http.StatusBadRequest, "ThrottlingException")
				return
			}
			good(w)
		}, 4, true},
		{"the connection breaks, then it is answered", func(n int64, w http.ResponseWriter) {
			if n == 1 {
				drops(w)
				return
			}
			good(w)
		}, 2, true},
		{"failing inside, then answered", func(n int64, w http.ResponseWriter) {
			if n <= 2 {
				fails(w, http.StatusInternalServerError, "KMSInternalException")
				return
			}
			good(w)
		}, 3, true},
		{"failing inside for good", func(_ int64, w http.ResponseWriter) {
			fails(w, http.StatusServiceUnavailable, "KMSInternalException")
		}, maxAttempts, false},
		{"refused", func(_ int64, w http.ResponseWriter) {
			fails(w, http.StatusBadRequest, "AccessDeniedException")
		}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, calls := answering(t, test.answer)
			err := describe(t.Context(), client)
			if (err == nil) != test.ok || calls.Load() != test.calls {
				t.Errorf("%d calls and %v, want %d calls", calls.Load(), err, test.calls)
			}
		})
	}
}

func TestAServiceThatHangsIsFoundOut(t *testing.T) {
	release := make(chan struct{})
	client, calls := answering(t, func(int64, http.ResponseWriter) { <-release })
	t.Cleanup(func() { close(release) })
	err := describe(t.Context(), client)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v, want a timeout", err)
	}
	if calls.Load() != maxHangs {
		t.Errorf("%d attempts, want %d", calls.Load(), maxHangs)
	}
}

func TestTheWaitBetweenAttemptsIsBoundedAndNeverZero(t *testing.T) {
	for attempt := range 100 {
		for range 100 {
			if wait := jitter(firstThrottled, maxThrottled, attempt); wait <= 0 || wait > maxThrottled {
				t.Fatalf("attempt %d waits %s", attempt, wait)
			}
		}
	}
	if wait := jitter(firstBackoff, maxBackoff, 1); wait > firstBackoff {
		t.Errorf("the first repeat waits %s, at most %s is meant", wait, firstBackoff)
	}
}

func TestTheTimeoutsAddUpToAFewSeconds(t *testing.T) {
	if hang := maxHangs*responseTimeout + maxBackoff; hang > 5*time.Second {
		t.Errorf("a hanging service is found out after %s", hang)
	}
	if client := HTTPClient(); client.GetTransport().IdleConnTimeout != idleTimeout || client.GetTimeout() != attemptTimeout ||
		client.GetTransport().ResponseHeaderTimeout != responseTimeout || client.GetDialer().Timeout != dialTimeout {
		t.Error("the HTTP client does not have the timeouts meant for it")
	}
}
