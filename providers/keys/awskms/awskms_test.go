package awskms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
)

var binding = kms.Binding{"ring": "user-keys"}

// emulator gives the endpoint of a local-kms.
func emulator(t *testing.T) string {
	t.Helper()
	server, err := localkms.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// wire counts the calls of each operation and can answer in KMS' place.
type wire struct {
	mu    sync.Mutex
	calls map[string]int
	fail  func(operation string, call int) (status int, code string)
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.mu.Lock()
	if w.calls == nil {
		w.calls = map[string]int{}
	}
	w.calls[operation]++
	call := w.calls[operation]
	w.mu.Unlock()
	if w.fail != nil {
		if status, code := w.fail(operation, call); status != 0 {
			return &http.Response{
				StatusCode: status, Request: r, ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}},
				Body:   io.NopCloser(strings.NewReader(fmt.Sprintf(`{"__type":%q,"message":"as it says"}`, code))),
			}, nil
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (w *wire) made(t *testing.T, want map[string]int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !maps.Equal(w.calls, want) {
		t.Errorf("calls %v, want %v", w.calls, want)
	}
	w.calls = nil
}

func settings(through http.RoundTripper) aws.Config {
	return aws.Config{
		Region:      localkms.Region,
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
		HTTPClient:  &http.Client{Transport: through},
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
		},
	}
}

// service is the API itself, to make keys and change them.
func service(endpoint string) *sdk.Client {
	return sdk.NewFromConfig(settings(http.DefaultTransport), func(o *sdk.Options) { o.BaseEndpoint = aws.String(endpoint) })
}

func created(t *testing.T, endpoint string, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	made, err := service(endpoint).CreateKey(t.Context(), &sdk.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(made.KeyMetadata.Arn)
}

func alias(t *testing.T, endpoint, name, arn string) string {
	t.Helper()
	if _, err := service(endpoint).CreateAlias(t.Context(), &sdk.CreateAliasInput{AliasName: aws.String(name), TargetKeyId: aws.String(arn)}); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(endpoint, id string, through http.RoundTripper) *Key {
	if through == nil {
		through = http.DefaultTransport
	}
	return New(settings(through), Config{KeyID: id, Endpoint: endpoint})
}

func wantClass(t *testing.T, what string, err error, want fault.Class, text string) {
	t.Helper()
	if fault.Of(err) != want || err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v\nwant class %q and %q", what, err, want, text)
	}
}

func TestConformance(t *testing.T) {
	endpoint := emulator(t)
	conforms := func(t *testing.T, id string) {
		kmstest.Run(t, func(t *testing.T) kms.Unwrapper { return open(endpoint, id, nil) })
	}
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecSymmetricDefault} {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		name := alias(t, endpoint, "alias/"+strings.ToLower(string(spec)), arn)
		for how, id := range map[string]string{
			"by its ARN":       arn,
			"by its id":        arn[strings.LastIndex(arn, "/")+1:],
			"by an alias":      name,
			"by an alias' ARN": strings.Replace(arn, arn[strings.Index(arn, "key/"):], name, 1),
		} {
			t.Run(string(spec)+" "+how, func(t *testing.T) { conforms(t, id) })
		}
	}
	t.Run("RSA_4096", func(t *testing.T) {
		if testing.Short() {
			t.Skip("the second stage (make test) runs this: such keys take long to make")
		}
		conforms(t, created(t, endpoint, types.KeySpecRsa4096, types.KeyUsageTypeEncryptDecrypt))
	})
}

func TestTheReferenceIsTheKeyNeverItsAlias(t *testing.T) {
	endpoint := emulator(t)
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecSymmetricDefault} {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		d, err := open(endpoint, alias(t, endpoint, "alias/"+strings.ToLower(string(spec)), arn), nil).Describe(t.Context())
		if err != nil || d.Ref.ID != arn || d.Ref.Provider != "awskms" {
			t.Errorf("%s: %+v %v, want %s", spec, d.Ref, err, arn)
		}
	}
}

func TestEachUseCostsTheFewestCalls(t *testing.T) {
	endpoint := emulator(t)
	yes, no := true, false
	for _, test := range []struct {
		name      string
		spec      types.KeySpec
		symmetric *bool
		describe  map[string]int
		wrap      map[string]int
	}{
		{"RSA", types.KeySpecRsa2048, nil, map[string]int{"GetPublicKey": 1}, nil},
		{"RSA, as configured", types.KeySpecRsa2048, &no, map[string]int{"GetPublicKey": 1}, nil},
		{"symmetric", types.KeySpecSymmetricDefault, nil, map[string]int{"GetPublicKey": 1, "DescribeKey": 1}, map[string]int{"Encrypt": 1}},
		{"symmetric, as configured", types.KeySpecSymmetricDefault, &yes, map[string]int{"DescribeKey": 1}, map[string]int{"Encrypt": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &wire{}
			id := created(t, endpoint, test.spec, types.KeyUsageTypeEncryptDecrypt)
			key := New(settings(w), Config{KeyID: id, Endpoint: endpoint, Symmetric: test.symmetric})
			w.made(t, nil)

			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					if _, err := key.Describe(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			w.made(t, test.describe)

			wrapped, err := kms.Wrap(t.Context(), key, []byte("secret"), binding)
			if err != nil {
				t.Fatal(err)
			}
			w.made(t, test.wrap)

			cold := New(settings(w), Config{KeyID: id, Endpoint: endpoint, Symmetric: test.symmetric})
			for _, handle := range []*Key{cold, key} {
				if got, err := kms.Unwrap(t.Context(), handle, wrapped, binding); err != nil || string(got) != "secret" {
					t.Fatal(err)
				}
				w.made(t, map[string]int{"Decrypt": 1})
			}

			damaged := wrapped
			damaged.Ciphertext = make([]byte, maxCiphertext+1)
			foreign := wrapped
			foreign.Key.ID, foreign.Key.Version = id[:len(id)-12]+"000000000000", ""
			for what, w := range map[string]kms.Wrapped{"too long": damaged, "of another key": foreign} {
				_, err := key.Unwrap(t.Context(), w, binding)
				wantClass(t, what, err, fault.Lost, "")
			}
			w.made(t, nil)
		})
	}
}

func TestWhatAnAliasWrappedIsUnwrappedAfterItMovedOn(t *testing.T) {
	endpoint := emulator(t)
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecSymmetricDefault} {
		before := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		after := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		name := alias(t, endpoint, "alias/"+strings.ToLower(string(spec)), before)
		wrapped, err := kms.Wrap(t.Context(), open(endpoint, name, nil), []byte("secret"), binding)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service(endpoint).UpdateAlias(t.Context(), &sdk.UpdateAliasInput{AliasName: aws.String(name), TargetKeyId: aws.String(after)}); err != nil {
			t.Fatal(err)
		}
		key := open(endpoint, name, nil)
		for range 2 { // not yet described, and described
			if got, err := kms.Unwrap(t.Context(), key, wrapped, binding); err != nil || string(got) != "secret" {
				t.Errorf("%s: %v", spec, err)
			}
			if d, err := key.Describe(t.Context()); err != nil || d.Ref.ID != after {
				t.Errorf("%s: described as %s (%v), want %s", spec, d.Ref, err, after)
			}
		}
	}
}

func TestASymmetricKeyRefusesAnotherBinding(t *testing.T) {
	endpoint := emulator(t)
	key := open(endpoint, created(t, endpoint, types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt), nil)
	wrapped, err := kms.Wrap(t.Context(), key, []byte("secret"), binding)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kms.Unwrap(t.Context(), key, wrapped, kms.Binding{"ring": "other"})
	wantClass(t, "another binding", err, fault.Lost, "binding")
}

func TestAKeyThatCannotBeUsedIsInvalidAndSaysWhy(t *testing.T) {
	endpoint := emulator(t)
	yes, no := true, false
	rsaKey := created(t, endpoint, types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt)
	symmetric := created(t, endpoint, types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt)
	disabled := func(spec types.KeySpec) string {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		if _, err := service(endpoint).DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: aws.String(arn)}); err != nil {
			t.Fatal(err)
		}
		return arn
	}
	doomed := func(spec types.KeySpec) string {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		if _, err := service(endpoint).ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: aws.String(arn), PendingWindowInDays: aws.Int32(7)}); err != nil {
			t.Fatal(err)
		}
		return arn
	}
	for _, test := range []struct {
		name      string
		id        string
		symmetric *bool
		want      fault.Class
		text      string
	}{
		{"no key", "", nil, fault.Invalid, "give its id"},
		{"an RSA key that should be symmetric", rsaKey, &yes, fault.Invalid, "says that it is symmetric"},
		{"a symmetric key that should not be", symmetric, &no, fault.Invalid, "says that it is not symmetric"},
		{"an RSA key to sign with", created(t, endpoint, types.KeySpecRsa2048, types.KeyUsageTypeSignVerify), nil, fault.Invalid, "SIGN_VERIFY"},
		{"an elliptic curve", created(t, endpoint, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify), nil, fault.Invalid, "ECC_NIST_P256"},
		{"a disabled RSA key", disabled(types.KeySpecRsa2048), nil, fault.Invalid, "enable it"},
		{"a disabled symmetric key", disabled(types.KeySpecSymmetricDefault), &yes, fault.Invalid, "enable it"},
		{"an RSA key that will be deleted", doomed(types.KeySpecRsa2048), nil, fault.Invalid, "cancel"},
		{"a symmetric key that will be deleted", doomed(types.KeySpecSymmetricDefault), &yes, fault.Invalid, "cancel"},
		{"a key that is not there", rsaKey[:len(rsaKey)-12] + "000000000000", nil, fault.NotFound, "region"},
		{"an alias that is not there", "alias/nobody", nil, fault.NotFound, "region"},
	} {
		t.Run(test.name, func(t *testing.T) {
			key := New(settings(http.DefaultTransport), Config{KeyID: test.id, Endpoint: endpoint, Symmetric: test.symmetric})
			_, err := key.Describe(t.Context())
			wantClass(t, "describe", err, test.want, test.text)
			_, err = kms.Wrap(t.Context(), key, []byte("secret"), binding)
			wantClass(t, "wrap", err, test.want, test.text)
		})
	}
}

func TestAKeyThatIsEnabledAgainWorks(t *testing.T) {
	endpoint := emulator(t)
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecSymmetricDefault} {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		key := open(endpoint, arn, nil)
		wrapped, err := kms.Wrap(t.Context(), key, []byte("secret"), binding)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service(endpoint).DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: aws.String(arn)}); err != nil {
			t.Fatal(err)
		}
		_, err = kms.Unwrap(t.Context(), key, wrapped, binding)
		wantClass(t, "disabled", err, fault.Invalid, "enable it")
		if _, err := service(endpoint).EnableKey(t.Context(), &sdk.EnableKeyInput{KeyId: aws.String(arn)}); err != nil {
			t.Fatal(err)
		}
		if got, err := kms.Unwrap(t.Context(), key, wrapped, binding); err != nil || string(got) != "secret" {
			t.Errorf("enabled: %v", err)
		}
	}
}

func TestKMSThatThrottlesAtStartIsAskedAgain(t *testing.T) {
	endpoint := emulator(t)
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecSymmetricDefault} {
		arn := created(t, endpoint, spec, types.KeyUsageTypeEncryptDecrypt)
		w := &wire{fail: func(_ string, call int) (int, string) {
			switch call {
			case 1:
				return http.StatusBadRequest, "ThrottlingException"
			case 2:
				return http.StatusInternalServerError, "KMSInternalException"
			}
			return 0, ""
		}}
		key := open(endpoint, arn, w)
		wrapped, err := kms.Wrap(t.Context(), key, []byte("secret"), binding)
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		if got, err := kms.Unwrap(t.Context(), key, wrapped, binding); err != nil || string(got) != "secret" {
			t.Errorf("%s: %v", spec, err)
		}
		if w.calls["Decrypt"] != 3 {
			t.Errorf("%d attempts to decrypt, want 3", w.calls["Decrypt"])
		}
	}
}

func TestAFailureToDescribeIsNotKept(t *testing.T) {
	endpoint := emulator(t)
	failing := true
	w := &wire{fail: func(string, int) (int, string) {
		if failing {
			return http.StatusServiceUnavailable, "KMSInternalException"
		}
		return 0, ""
	}}
	key := open(endpoint, created(t, endpoint, types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt), w)
	_, err := key.Describe(t.Context())
	wantClass(t, "while it fails", err, fault.Transient, "")
	failing = false
	if _, err := key.Describe(t.Context()); err != nil {
		t.Errorf("when it works again: %v", err)
	}
}

func TestAServiceThatHangsIsTransientWhenTheContextEnds(t *testing.T) {
	reached, release := make(chan struct{}, 10), make(chan struct{})
	t.Cleanup(func() { close(release) })
	f := &fake{hang: func() {
		reached <- struct{}{}
		<-release
	}}
	f.public(t, rsaARN)
	key := &Key{name: parseName(rsaARN, region), client: f}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	_, err := key.Describe(ctx)
	wantClass(t, "describe", err, fault.Transient, "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not tell that the context ended", err)
	}
}

func TestOneWhoGivesUpDoesNotTakeTheAnswerFromTheOthers(t *testing.T) {
	reached, release := make(chan struct{}, 10), make(chan struct{})
	f := &fake{hang: func() {
		reached <- struct{}{}
		<-release
	}}
	f.public(t, rsaARN)
	key := &Key{name: parseName(rsaARN, region), client: f}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := key.Describe(ctx)
		first <- err
	}()
	<-reached
	second := make(chan error)
	go func() {
		_, err := key.Describe(t.Context())
		second <- err
	}()
	cancel()
	wantClass(t, "who gave up", <-first, fault.Transient, "")
	close(release)
	if err := <-second; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

const (
	region       = "eu-central-1"
	rsaARN       = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
	symmetricARN = "arn:aws:kms:eu-central-1:111122223333:key/66666666-2222-3333-4444-555555555555"
	mrkARN       = "arn:aws:kms:eu-central-1:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
)

// fake is a KMS that answers what it is told to.
type fake struct {
	hang       func()
	publicKey  *sdk.GetPublicKeyOutput
	metadata   *types.KeyMetadata
	answersAs  string
	asked      *sdk.DecryptInput
	getPublic  error
	descr      error
	encryptErr error
	decryptErr error
}

func (f *fake) public(t *testing.T, arn string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	f.publicKey = &sdk.GetPublicKeyOutput{
		KeyId: aws.String(arn), KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt, PublicKey: der,
		EncryptionAlgorithms: []types.EncryptionAlgorithmSpec{types.EncryptionAlgorithmSpecRsaesOaepSha1, types.EncryptionAlgorithmSpecRsaesOaepSha256},
	}
}

func (f *fake) symmetric(arn string) *fake {
	f.metadata = &types.KeyMetadata{
		Arn: aws.String(arn), KeySpec: types.KeySpecSymmetricDefault, KeyUsage: types.KeyUsageTypeEncryptDecrypt, KeyState: types.KeyStateEnabled,
	}
	return f
}

func (f *fake) GetPublicKey(context.Context, *sdk.GetPublicKeyInput, ...func(*sdk.Options)) (*sdk.GetPublicKeyOutput, error) {
	if f.hang != nil {
		f.hang()
	}
	return f.publicKey, f.getPublic
}

func (f *fake) DescribeKey(context.Context, *sdk.DescribeKeyInput, ...func(*sdk.Options)) (*sdk.DescribeKeyOutput, error) {
	return &sdk.DescribeKeyOutput{KeyMetadata: f.metadata}, f.descr
}

func (f *fake) Encrypt(_ context.Context, in *sdk.EncryptInput, _ ...func(*sdk.Options)) (*sdk.EncryptOutput, error) {
	if f.encryptErr != nil {
		return nil, f.encryptErr
	}
	used := in.KeyId
	if f.answersAs != "" {
		used = aws.String(f.answersAs)
	}
	return &sdk.EncryptOutput{KeyId: used, CiphertextBlob: bytes.Clone(in.Plaintext)}, nil
}

func (f *fake) Decrypt(_ context.Context, in *sdk.DecryptInput, _ ...func(*sdk.Options)) (*sdk.DecryptOutput, error) {
	f.asked = in
	if f.decryptErr != nil {
		return nil, f.decryptErr
	}
	used := in.KeyId
	if f.answersAs != "" {
		used = aws.String(f.answersAs)
	}
	return &sdk.DecryptOutput{KeyId: used, Plaintext: bytes.Clone(in.CiphertextBlob)}, nil
}

func says(code string) error { return &smithy.GenericAPIError{Code: code, Message: "as it says"} }

func TestErrorsOfTheServiceHaveTheirClass(t *testing.T) {
	wrapped := kms.Wrapped{Key: kms.Ref{Provider: "awskms", ID: symmetricARN}, Algorithm: kms.Symmetric, Ciphertext: []byte{1}}
	for code, want := range map[string]fault.Class{
		"NotFoundException":                   fault.NotFound,
		"AccessDeniedException":               fault.Denied,
		"UnrecognizedClientException":         fault.Denied,
		"InvalidSignatureException":           fault.Denied,
		"ExpiredTokenException":               fault.Denied,
		"MissingAuthenticationTokenException": fault.Denied,
		"DisabledException":                   fault.Invalid,
		"KMSInvalidStateException":            fault.Invalid,
		"InvalidKeyUsageException":            fault.Invalid,
		"ValidationException":                 fault.Invalid,
		"InvalidArnException":                 fault.Invalid,
		"UnsupportedOperationException":       fault.Unsupported,
		"InvalidCiphertextException":          fault.Lost,
		"IncorrectKeyException":               fault.Lost,
		"ThrottlingException":                 fault.Transient,
		"LimitExceededException":              fault.Transient,
		"KeyUnavailableException":             fault.Transient,
		"DependencyTimeoutException":          fault.Transient,
		"KMSInternalException":                fault.Transient,
		"SomethingNewException":               fault.Transient,
	} {
		key := &Key{name: parseName(symmetricARN, region), client: (&fake{decryptErr: says(code)}).symmetric(symmetricARN)}
		_, err := key.Unwrap(t.Context(), wrapped, binding)
		wantClass(t, code, err, want, "as it says")
	}
	key := &Key{name: parseName(symmetricARN, region), client: &fake{decryptErr: io.ErrUnexpectedEOF}}
	_, err := key.Unwrap(t.Context(), wrapped, binding)
	wantClass(t, "a connection that broke", err, fault.Transient, "")
}

func TestEachRightThatIsMissingIsNamed(t *testing.T) {
	yes := true
	denied := says("AccessDeniedException")
	wrapped := kms.Wrapped{Key: kms.Ref{Provider: "awskms", ID: symmetricARN}, Algorithm: kms.Symmetric, Ciphertext: []byte{1}}
	symmetric := func(f *fake) *Key {
		return &Key{name: parseName(symmetricARN, region), client: f.symmetric(symmetricARN), symmetric: &yes}
	}

	mayDecrypt := symmetric(&fake{encryptErr: denied})
	_, err := kms.Wrap(t.Context(), mayDecrypt, []byte("secret"), binding)
	wantClass(t, "decrypt without encrypt, wrap", err, fault.Denied, "kms:Encrypt")
	if _, err := kms.Unwrap(t.Context(), mayDecrypt, wrapped, binding); err != nil {
		t.Errorf("decrypt without encrypt, unwrap: %v", err)
	}

	mayEncrypt := symmetric(&fake{decryptErr: denied})
	if _, err := kms.Wrap(t.Context(), mayEncrypt, []byte("secret"), binding); err != nil {
		t.Errorf("encrypt without decrypt, wrap: %v", err)
	}
	_, err = kms.Unwrap(t.Context(), mayEncrypt, wrapped, binding)
	wantClass(t, "encrypt without decrypt, unwrap", err, fault.Denied, "kms:Decrypt")

	_, err = symmetric(&fake{descr: denied}).Describe(t.Context())
	wantClass(t, "a symmetric key that may not be described", err, fault.Denied, "kms:DescribeKey")

	// With the rights of a symmetric key alone, one is found all the same.
	unsaid := &Key{name: parseName(symmetricARN, region), client: (&fake{getPublic: denied}).symmetric(symmetricARN)}
	if d, err := unsaid.Describe(t.Context()); err != nil || d.Wrap != kms.Symmetric {
		t.Errorf("no right to a public key there is not: %+v %v", d, err)
	}
	f := (&fake{getPublic: denied}).symmetric(rsaARN)
	f.metadata.KeySpec = types.KeySpecRsa2048
	_, err = (&Key{name: parseName(rsaARN, region), client: f}).Describe(t.Context())
	wantClass(t, "no right to a public key there is", err, fault.Denied, "kms:GetPublicKey")
}

func TestAnAnswerByAnotherKeyIsRefused(t *testing.T) {
	yes := true
	f := (&fake{answersAs: rsaARN}).symmetric(symmetricARN)
	key := &Key{name: parseName(symmetricARN, region), client: f, symmetric: &yes}
	plaintext, err := key.Unwrap(t.Context(), kms.Wrapped{Key: kms.Ref{Provider: "awskms", ID: symmetricARN}, Algorithm: kms.Symmetric, Ciphertext: []byte{1}}, binding)
	wantClass(t, "decrypt", err, fault.Lost, rsaARN)
	if plaintext != nil {
		t.Error("a plaintext beside the error")
	}
	_, err = key.Wrap(t.Context(), []byte("secret"), binding)
	wantClass(t, "encrypt", err, fault.Invalid, rsaARN)

	other := &Key{name: parseName(rsaARN, region), client: f, symmetric: &yes}
	_, err = other.Describe(t.Context())
	wantClass(t, "describe", err, fault.Invalid, symmetricARN)
}

func TestAPublicKeyThatIsNoneIsInvalid(t *testing.T) {
	for name, spoil := range map[string]func(*sdk.GetPublicKeyOutput){
		"empty":           func(o *sdk.GetPublicKeyOutput) { o.PublicKey = nil },
		"damaged":         func(o *sdk.GetPublicKeyOutput) { o.PublicKey = o.PublicKey[:40] },
		"another key":     func(o *sdk.GetPublicKeyOutput) { o.KeyId = aws.String(symmetricARN) },
		"no name":         func(o *sdk.GetPublicKeyOutput) { o.KeyId = nil },
		"another purpose": func(o *sdk.GetPublicKeyOutput) { o.KeyUsage = types.KeyUsageTypeKeyAgreement },
	} {
		f := &fake{}
		f.public(t, rsaARN)
		spoil(f.publicKey)
		_, err := (&Key{name: parseName(rsaARN, region), client: f}).Describe(t.Context())
		wantClass(t, name, err, fault.Invalid, rsaARN)
	}
	f := &fake{}
	f.public(t, rsaARN)
	f.publicKey.EncryptionAlgorithms = f.publicKey.EncryptionAlgorithms[:1]
	_, err := (&Key{name: parseName(rsaARN, region), client: f}).Describe(t.Context())
	wantClass(t, "SHA-1 only", err, fault.Unsupported, "RSAES_OAEP_SHA_256")
}

func TestStatesOfASymmetricKeyHaveTheirClass(t *testing.T) {
	for state, want := range map[types.KeyState]fault.Class{
		types.KeyStateEnabled: "", types.KeyStateCreating: fault.Transient, types.KeyStateUpdating: fault.Transient,
		types.KeyStateUnavailable: fault.Transient, types.KeyStateDisabled: fault.Invalid,
		types.KeyStatePendingDeletion: fault.Invalid, types.KeyStatePendingImport: fault.Invalid,
	} {
		f := (&fake{getPublic: says("UnsupportedOperationException")}).symmetric(symmetricARN)
		f.metadata.KeyState = state
		_, err := (&Key{name: parseName(symmetricARN, region), client: f}).Describe(t.Context())
		wantClass(t, string(state), err, want, "")
	}
}

func TestTheKeyThatUnwrapsIsFoundByItsReference(t *testing.T) {
	const (
		otherRegion  = "arn:aws:kms:us-east-1:111122223333:key/66666666-2222-3333-4444-555555555555"
		otherAccount = "arn:aws:kms:eu-central-1:999999999999:key/66666666-2222-3333-4444-555555555555"
		mrkElsewhere = "arn:aws:kms:us-east-1:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
		id           = "66666666-2222-3333-4444-555555555555"
	)
	for _, test := range []struct {
		name               string
		configured, stored string
		want               string // empty: refused without a call
	}{
		{"an ARN and the same", symmetricARN, symmetricARN, symmetricARN},
		{"an ARN and another key", rsaARN, symmetricARN, ""},
		{"an ARN and another account", symmetricARN, otherAccount, ""},
		{"an ARN and another region", symmetricARN, otherRegion, ""},
		{"an id and its ARN", id, symmetricARN, symmetricARN},
		{"an id and another key", id, rsaARN, ""},
		{"an id in another region", id, otherRegion, ""},
		{"an alias and any key of the region", "alias/x", symmetricARN, symmetricARN},
		{"an alias and a key of another region", "alias/x", otherRegion, ""},
		{"an alias' ARN and a key of the account", "arn:aws:kms:eu-central-1:111122223333:alias/x", symmetricARN, symmetricARN},
		{"an alias' ARN and a key of another account", "arn:aws:kms:eu-central-1:111122223333:alias/x", otherAccount, ""},
		{"a multi-Region key and its replica elsewhere", mrkARN, mrkElsewhere, mrkARN},
		{"a multi-Region key's id and its replica elsewhere", "mrk-0123456789abcdef0123456789abcdef", mrkElsewhere, mrkARN},
		{"a multi-Region key and another", symmetricARN, mrkElsewhere, ""},
		{"something that is no key", "alias/x", "arn:aws:kms:eu-central-1:111122223333:alias/y", ""},
		{"nothing", "alias/x", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fake{}
			key := &Key{name: parseName(test.configured, region), client: f}
			w := kms.Wrapped{Key: kms.Ref{Provider: "awskms", ID: test.stored}, Algorithm: kms.Symmetric, Ciphertext: []byte{1}}
			_, err := key.Unwrap(t.Context(), w, binding)
			if test.want == "" {
				wantClass(t, "unwrap", err, fault.Lost, "")
				if f.asked != nil {
					t.Error("KMS was asked all the same")
				}
				return
			}
			if err != nil || aws.ToString(f.asked.KeyId) != test.want {
				t.Errorf("asked %+v (%v), want %s", f.asked, err, test.want)
			}
		})
	}
}

func TestTheBindingIsGivenOnlyToSymmetricKeys(t *testing.T) {
	f := &fake{}
	key := &Key{name: parseName(rsaARN, region), client: f}
	w := kms.Wrapped{Key: kms.Ref{Provider: "awskms", ID: rsaARN, Version: "spki-sha256:00"}, Algorithm: kms.RSAOAEP, Ciphertext: []byte{1}}
	if _, err := key.Unwrap(t.Context(), w, binding); err != nil || f.asked.EncryptionContext != nil || f.asked.EncryptionAlgorithm != types.EncryptionAlgorithmSpecRsaesOaepSha1 {
		t.Errorf("RSA: asked %+v (%v)", f.asked, err)
	}
	w.Key.Version, w.Algorithm = "", kms.Symmetric
	if _, err := key.Unwrap(t.Context(), w, binding); err != nil || !maps.Equal(f.asked.EncryptionContext, binding) || f.asked.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
		t.Errorf("symmetric: asked %+v (%v)", f.asked, err)
	}
}
