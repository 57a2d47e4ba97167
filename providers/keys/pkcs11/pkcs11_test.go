package pkcs11

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
)

func answered(code uint64) *protocol.Error {
	return &protocol.Error{Code: code, Text: fmt.Sprintf("C_Decrypt: 0x%X", code)}
}

func openKey(t *testing.T, c Config) *Key {
	t.Helper()
	key, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return key
}

// wrapped is a secret wrapped to the fake's usual key, without asking it.
func wrapped(t *testing.T, algorithm kms.Algorithm) (kms.Wrapped, []byte) {
	t.Helper()
	public := &fakeKeys[0]().PublicKey
	version, err := kms.PublicVersion(public)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProbe(public, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return kms.Wrapped{Key: kms.Ref{Provider: provider, ID: "elsewhere", Version: version}, Algorithm: algorithm, Ciphertext: p.ciphertext}, p.plaintext
}

func mustUnwrap(t *testing.T, key *Key) {
	t.Helper()
	w, secret := wrapped(t, kms.RSAOAEP256)
	got, err := key.Unwrap(t.Context(), w, nil)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("unwrap: the secret %v, error %v", bytes.Equal(got, secret), err)
	}
}

func wantClass(t *testing.T, err error, want fault.Class) {
	t.Helper()
	if err == nil || fault.Of(err) != want {
		t.Fatalf("error of class %q, want %q: %v", fault.Of(err), want, err)
	}
}

func TestAFakeTokenConforms(t *testing.T) {
	for name, b := range map[string]behaviour{"both hashes": {}, "SHA-1 only": {NoSHA256: true}} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, b)
			kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
				key, err := Open(f.config())
				if err != nil {
					t.Fatal(err)
				}
				return key
			})
		})
	}
}

func TestOpeningStartsNothing(t *testing.T) {
	f := newFake(t)
	openKey(t, f.config())
	if pids := f.lines("pids"); len(pids) != 0 {
		t.Errorf("helpers were started: %v", pids)
	}
}

func TestTheReferenceIsAPKCS11URI(t *testing.T) {
	description, err := openKey(t, newFake(t).config()).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := description.Ref.String(), "pkcs11:serial=0815;id=%00%ff@spki-sha256:"; !strings.HasPrefix(got, want) {
		t.Errorf("reference %s, want it to begin with %s", got, want)
	}
}

func TestTheHashToWrapWith(t *testing.T) {
	for _, test := range []struct {
		name string
		oaep string
		b    behaviour
		want kms.Algorithm
		asks int
	}{
		{"SHA-256 where the token can", "", behaviour{}, kms.RSAOAEP256, 1},
		{"SHA-1 where it cannot", "", behaviour{NoSHA256: true}, kms.RSAOAEP, 3},
		{"as configured, without asking", "sha1", behaviour{}, kms.RSAOAEP, 0},
		{"as configured, without asking, the other", "sha256", behaviour{NoSHA256: true}, kms.RSAOAEP256, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, test.b)
			c := f.config()
			c.OAEP = test.oaep
			key := openKey(t, c)
			for range 3 {
				description, err := key.Describe(t.Context())
				if err != nil || description.Wrap != test.want {
					t.Fatalf("wraps with %q, %v; want %q", description.Wrap, err, test.want)
				}
			}
			if asks := f.lines("decrypts"); len(asks) != test.asks {
				t.Errorf("the token was asked %d times, want %d", len(asks), test.asks)
			}
		})
	}
}

func TestAProbeThatFailsIsNotRemembered(t *testing.T) {
	f := newFake(t, behaviour{Crash: true}, behaviour{})
	key := openKey(t, f.config())
	_, err := key.Describe(t.Context())
	wantClass(t, err, fault.Transient)
	description, err := key.Describe(t.Context())
	if err != nil || description.Wrap != kms.RSAOAEP256 {
		t.Errorf("after the crash: %q, %v", description.Wrap, err)
	}
}

func TestACrashFailsTheCallsUnderWayAndTheNextOneWorks(t *testing.T) {
	f := newFake(t, behaviour{Crash: true}, behaviour{})
	key := openKey(t, f.config())
	w, _ := wrapped(t, kms.RSAOAEP256)
	_, err := key.Unwrap(t.Context(), w, nil)
	wantClass(t, err, fault.Transient)
	mustUnwrap(t, key)
	if pids := f.lines("pids"); len(pids) != 2 {
		t.Errorf("%d helpers, want 2", len(pids))
	}
}

func TestAHelperThatKeepsCrashingIsStartedAgainAndAgain(t *testing.T) {
	f := newFake(t, behaviour{Crash: true}, behaviour{Crash: true}, behaviour{Crash: true}, behaviour{})
	key := openKey(t, f.config())
	w, _ := wrapped(t, kms.RSAOAEP256)
	for range 3 {
		_, err := key.Unwrap(t.Context(), w, nil)
		wantClass(t, err, fault.Transient)
	}
	mustUnwrap(t, key)
}

func TestAPauseBetweenStartsHonoursTheContext(t *testing.T) {
	f := newFake(t, behaviour{OpenError: &protocol.Error{Code: generalError, Text: "C_Initialize: CKR_GENERAL_ERROR"}})
	key := openKey(t, f.config())
	key.supervisor.pause.InitialInterval = time.Hour
	key.supervisor.pause.MaxInterval = time.Hour
	key.supervisor.pause.Reset()
	w, _ := wrapped(t, kms.RSAOAEP256)
	for range 2 { // the first two are not delayed
		_, err := key.Unwrap(t.Context(), w, nil)
		wantClass(t, err, fault.Transient)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := key.Unwrap(ctx, w, nil)
	wantClass(t, err, fault.Transient)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error does not name the deadline: %v", err)
	}
	if pids := f.lines("pids"); len(pids) != 2 {
		t.Errorf("%d helpers, want 2", len(pids))
	}
}

func TestAHangIsEndedAndReplaced(t *testing.T) {
	for name, b := range map[string]behaviour{"in the first call": {Hang: true}, "while logging in": {HangInOpen: true}} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, b, behaviour{})
			c := f.config()
			c.CallTimeout, c.StartTimeout = 200*time.Millisecond, 20*time.Second
			if b.HangInOpen {
				c.CallTimeout, c.StartTimeout = 20*time.Second, 2*time.Second
			}
			key := openKey(t, c)
			w, _ := wrapped(t, kms.RSAOAEP256)
			_, err := key.Unwrap(t.Context(), w, nil)
			wantClass(t, err, fault.Transient)
			if !strings.Contains(err.Error(), "did not answer") {
				t.Errorf("the error does not say that it hung: %v", err)
			}
			// The machine may be slow now.
			key.supervisor.config.CallTimeout, key.supervisor.config.StartTimeout = patience, patience
			mustUnwrap(t, key)
			gone(t, f.lines("pids")[0])
		})
	}
}

func TestAHangIsEndedAlsoWhenItsCallerHasLeft(t *testing.T) {
	f := newFake(t, behaviour{Hang: true}, behaviour{})
	c := f.config()
	c.CallTimeout = 500 * time.Millisecond
	key := openKey(t, c)
	w, _ := wrapped(t, kms.RSAOAEP256)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(f.lines("decrypts")) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := key.Unwrap(ctx, w, nil)
	wantClass(t, err, fault.Transient)
	gone(t, f.lines("pids")[0])
	key.supervisor.config.CallTimeout = 20 * time.Second
	mustUnwrap(t, key)
}

func TestACallThatEndsEarlyLeavesTheOthersAlone(t *testing.T) {
	f := newFake(t, behaviour{Gate: true})
	key := openKey(t, f.config())
	w, secret := wrapped(t, kms.RSAOAEP256)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if _, err := key.Unwrap(ctx, w, nil); fault.Of(err) != fault.Transient {
				t.Errorf("the one that left: %v", err)
			}
		})
		group.Go(func() {
			if got, err := key.Unwrap(t.Context(), w, nil); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("the one that stayed: %v", err)
			}
		})
	}
	for len(f.lines("decrypts")) < 6 { // all are in the helper: they run at once
		time.Sleep(time.Millisecond)
	}
	cancel()
	f.write("gate", nil)
	group.Wait()
	if pids := f.lines("pids"); len(pids) != 1 {
		t.Errorf("%d helpers, want 1", len(pids))
	}
}

func TestAHelperThatTalksGarbageIsReplaced(t *testing.T) {
	frame := func(s string) string {
		return string([]byte{0, 0, byte(len(s) >> 8), byte(len(s))}) + s
	}
	for name, garbage := range map[string]string{
		"text":                    "Welcome to the vendor's library!\n",
		"an endless message":      "\xff\xff\xff\xff{}",
		"a message of other form": frame(`[1,2,3]`),
		"no JSON":                 frame(`{"id":`),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, behaviour{Garbage: garbage}, behaviour{})
			key := openKey(t, f.config())
			w, _ := wrapped(t, kms.RSAOAEP256)
			_, err := key.Unwrap(t.Context(), w, nil)
			wantClass(t, err, fault.Transient)
			mustUnwrap(t, key)
		})
	}
}

func TestAnAnswerWithNothingInItIsNoSecret(t *testing.T) {
	key := openKey(t, newFake(t, behaviour{Empty: true}).config())
	w, _ := wrapped(t, kms.RSAOAEP256)
	got, err := key.Unwrap(t.Context(), w, nil)
	if got != nil {
		t.Error("a plaintext")
	}
	wantClass(t, err, fault.Lost)
}

func TestALostTokenIsAskedAgainByANewHelper(t *testing.T) {
	for _, code := range []uint64{deviceError, deviceRemoved, tokenNotPresent, sessionHandleInvalid, sessionClosed,
		userNotLoggedIn, cryptokiNotInitialized, generalError, functionFailed, keyHandleInvalid, vendorDefined + 7} {
		t.Run(fmt.Sprintf("0x%X", code), func(t *testing.T) {
			f := newFake(t, behaviour{DecryptError: answered(code)}, behaviour{})
			key := openKey(t, f.config())
			mustUnwrap(t, key) // the caller does not notice
			if pids := f.lines("pids"); len(pids) != 2 {
				t.Errorf("%d helpers, want 2", len(pids))
			}
		})
	}
}

func TestATokenThatStaysLostIsTransientNeverLost(t *testing.T) {
	for _, code := range []uint64{deviceError, generalError, sessionHandleInvalid, vendorDefined} {
		t.Run(fmt.Sprintf("0x%X", code), func(t *testing.T) {
			key := openKey(t, newFake(t, behaviour{DecryptError: answered(code)}).config())
			w, _ := wrapped(t, kms.RSAOAEP256)
			_, err := key.Unwrap(t.Context(), w, nil)
			wantClass(t, err, fault.Transient)
		})
	}
}

func TestATokenThatStumblesOnceDoesNotMakeACiphertextLost(t *testing.T) {
	f := newFake(t, behaviour{DecryptError: answered(generalError), DecryptErrors: 1})
	key := openKey(t, f.config())
	mustUnwrap(t, key)
	if pids := f.lines("pids"); len(pids) != 1 {
		t.Errorf("%d helpers, want the first one still", len(pids))
	}
}

func TestDamageDoesNotCostTheHelper(t *testing.T) {
	f := newFake(t)
	key := openKey(t, f.config())
	w, _ := wrapped(t, kms.RSAOAEP256)
	w.Ciphertext[100] ^= 1
	for range 10 {
		_, err := key.Unwrap(t.Context(), w, nil)
		wantClass(t, err, fault.Lost)
	}
	if pids := f.lines("pids"); len(pids) != 1 {
		t.Errorf("%d helpers, want 1", len(pids))
	}
}

func TestAnswersHaveClasses(t *testing.T) {
	for _, test := range []struct {
		code uint64
		want fault.Class
	}{
		{encryptedDataInvalid, fault.Lost}, {encryptedDataLenRange, fault.Lost}, {dataInvalid, fault.Lost},
		{mechanismInvalid, fault.Unsupported}, {mechanismParamInvalid, fault.Unsupported}, {argumentsBad, fault.Unsupported},
		{keyNotPermitted, fault.Invalid}, {keyTypeInconsistent, fault.Invalid},
	} {
		t.Run(fmt.Sprintf("0x%X", test.code), func(t *testing.T) {
			key := openKey(t, newFake(t, behaviour{DecryptError: answered(test.code)}).config())
			w, _ := wrapped(t, kms.RSAOAEP256)
			_, err := key.Unwrap(t.Context(), w, nil)
			wantClass(t, err, test.want)
		})
	}
}

func TestWhatWasNotFound(t *testing.T) {
	for _, test := range []struct {
		kind protocol.Kind
		want fault.Class
	}{
		{protocol.NoToken, fault.Transient}, {protocol.OtherTokens, fault.NotFound}, {protocol.NoKey, fault.NotFound},
		{protocol.BadKey, fault.Invalid}, {protocol.BadRequest, fault.Invalid},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			f := newFake(t, behaviour{OpenError: &protocol.Error{Kind: test.kind, Text: "said so"}}, behaviour{})
			key := openKey(t, f.config())
			_, err := key.Describe(t.Context())
			wantClass(t, err, test.want)
			mustUnwrap(t, key) // it may have come back since
		})
	}
}

func TestAWrongPINIsTriedOnce(t *testing.T) {
	for name, code := range map[string]uint64{
		"incorrect": pinIncorrect, "locked": pinLocked, "expired": pinExpired, "of a wrong length": pinLenRange, "invalid": pinInvalid,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, behaviour{OpenError: &protocol.Error{Kind: protocol.Login, Code: code, Text: "C_Login: refused"}})
			key := openKey(t, f.config())
			w, _ := wrapped(t, kms.RSAOAEP256)
			var group sync.WaitGroup
			for range 64 {
				group.Go(func() {
					if _, err := key.Unwrap(t.Context(), w, nil); fault.Of(err) != fault.Denied {
						t.Errorf("class %q: %v", fault.Of(err), err)
					}
				})
			}
			group.Wait()
			_, err := key.Describe(t.Context())
			wantClass(t, err, fault.Denied)
			if !strings.Contains(err.Error(), "vendor's tool") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if strings.Contains(err.Error(), testPIN) {
				t.Error("the error holds the PIN")
			}
			if logins := f.lines("logins"); len(logins) != 1 {
				t.Errorf("%d logins were tried, want 1", len(logins))
			}
		})
	}
}

func TestALoginThatFailsWithoutAReasonIsTriedTwice(t *testing.T) {
	f := newFake(t, behaviour{OpenError: &protocol.Error{Kind: protocol.Login, Code: vendorDefined + 1, Text: "C_Login: 0x80000001"}})
	key := openKey(t, f.config())
	_, err := key.Describe(t.Context())
	wantClass(t, err, fault.Transient)
	for range 5 {
		_, err = key.Describe(t.Context())
		wantClass(t, err, fault.Denied)
	}
	if logins := f.lines("logins"); len(logins) != 2 {
		t.Errorf("%d logins were tried, want 2", len(logins))
	}
}

func TestALoginThatFailsWithTheTokenIsTriedAgain(t *testing.T) {
	lost := behaviour{OpenError: &protocol.Error{Kind: protocol.Login, Code: deviceError, Text: "C_Login: CKR_DEVICE_ERROR"}}
	key := openKey(t, newFake(t, lost, lost, lost, behaviour{}).config())
	for range 3 {
		_, err := key.Describe(t.Context())
		wantClass(t, err, fault.Transient)
	}
	mustUnwrap(t, key)
}

func TestALoginThatWasNotTriedMayBeTriedLater(t *testing.T) {
	f := newFake(t, behaviour{OpenError: &protocol.Error{Kind: protocol.LoginWithheld, Code: pinLocked, Text: "one more wrong PIN locks it"}}, behaviour{})
	key := openKey(t, f.config())
	_, err := key.Describe(t.Context())
	wantClass(t, err, fault.Denied)
	mustUnwrap(t, key)
}

func TestAPINRefusedAtOneUseOfTheKeyIsNotTriedAgain(t *testing.T) {
	f := newFake(t, behaviour{DecryptError: &protocol.Error{Kind: protocol.Login, Code: pinIncorrect, Text: "C_Login for one use of the key: CKR_PIN_INCORRECT"}})
	key := openKey(t, f.config())
	w, _ := wrapped(t, kms.RSAOAEP256)
	for range 5 {
		_, err := key.Unwrap(t.Context(), w, nil)
		wantClass(t, err, fault.Denied)
	}
	if decrypts := f.lines("decrypts"); len(decrypts) != 1 {
		t.Errorf("%d were tried, want 1", len(decrypts))
	}
}

func TestThePublicKeyComesFromTheTokenOrTheConfiguration(t *testing.T) {
	for _, test := range []struct {
		name  string
		b     behaviour
		given int // -1: none
		want  fault.Class
	}{
		{"from the token", behaviour{}, -1, ""},
		{"given and the same", behaviour{}, 0, ""},
		{"given and another", behaviour{}, 1, fault.Invalid},
		{"given only", behaviour{NoModulus: true}, 0, ""},
		{"given only, and of another key, and the token says so", behaviour{NoModulus: true, Damage: encryptedDataInvalid}, 1, fault.Invalid},
		{"given only, and of another key, and the token says that something is wrong", behaviour{NoModulus: true}, 1, fault.Transient},
		{"nowhere", behaviour{NoModulus: true}, -1, fault.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newFake(t, test.b).config()
			if test.given >= 0 {
				c.Public = &fakeKeys[test.given]().PublicKey
			}
			description, err := openKey(t, c).Describe(t.Context())
			if test.want != "" {
				wantClass(t, err, test.want)
				return
			}
			if err != nil || !description.Public.Equal(&fakeKeys[0]().PublicKey) {
				t.Errorf("another public key, or %v", err)
			}
		})
	}
}

func TestAKeyThatWasReplacedInTheTokenIsRefused(t *testing.T) {
	f := newFake(t, behaviour{DecryptError: answered(deviceRemoved), DecryptErrors: 1}, behaviour{OtherKey: true}, behaviour{})
	c := f.config()
	c.OAEP = "sha256"
	key := openKey(t, c)
	w, _ := wrapped(t, kms.RSAOAEP256)
	_, err := key.Unwrap(t.Context(), w, nil)
	wantClass(t, err, fault.Invalid)
	mustUnwrap(t, key) // the right token is in again
}

func TestWhatTheLibraryPrintsIsLoggedBoundedAndWithoutThePIN(t *testing.T) {
	for name, b := range map[string]behaviour{
		"short lines":        {Print: "C_Login(" + testPIN + ")\n", PrintTimes: 100_000},
		"one endless line":   {Print: "x" + testPIN, PrintTimes: 100_000},
		"a last line":        {Print: "no end of line, " + testPIN, PrintTimes: 1},
		"nothing but breaks": {Print: "\n", PrintTimes: 100_000},
		"not text":           {Print: "\xff\x00\x1b[31m\n", PrintTimes: 10},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			c := newFake(t, b).config()
			c.Log = slog.New(slog.NewJSONHandler(&log, nil))
			key := openKey(t, c)
			mustUnwrap(t, key)
			if err := key.Close(); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(log.Bytes(), []byte(testPIN)) {
				t.Error("the log holds the PIN")
			}
			if strings.Contains(b.Print, testPIN) && !bytes.Contains(log.Bytes(), []byte(redacted)) {
				t.Error("the log does not hold what was printed")
			}
			if log.Len() > 8*maxOutput {
				t.Errorf("%d bytes were logged", log.Len())
			}
		})
	}
}

func TestAPINThatIsCutByTheLineLimitIsNotLoggedInPart(t *testing.T) {
	var log bytes.Buffer
	for at := maxLine - 2*len(testPIN); at <= maxLine; at++ {
		w := &printer{log: slog.New(slog.NewJSONHandler(&log, nil)), secret: []byte(testPIN)}
		line := strings.Repeat("x", at) + testPIN + "\n"
		for _, part := range []string{line[:at+3], line[at+3:]} {
			if _, err := w.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if bytes.Contains(log.Bytes(), []byte("pin-")) {
		t.Error("a part of the PIN was logged")
	}
}

func TestThePINDoesNotPrintItself(t *testing.T) {
	var log bytes.Buffer
	c := Config{PIN: testPIN}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", c, "pin", c.PIN)
	encoded, err := json.Marshal(map[string]any{"pin": c.PIN})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q %x", c, c, c.PIN, c.PIN, c.PIN), log.String(), string(encoded)} {
		if strings.Contains(text, testPIN) || strings.Contains(text, fmt.Sprintf("%x", testPIN)) {
			t.Errorf("it does: %s", text)
		}
	}
}

func TestTheHelperInheritsNoSecrets(t *testing.T) {
	t.Setenv("keyConnectorSettings__rsaKey__pkcs11LoginPin", testPIN)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("SOFTHSM2_CONF", "/from/here")
	env := strings.Join(Config{Env: []string{"SOFTHSM2_CONF=/configured"}, PIN: testPIN}.environment(), "\n")
	if strings.Contains(env, testPIN) || strings.Contains(env, "AWS_") {
		t.Errorf("it does:\n%s", env)
	}
	if !strings.HasSuffix(env, "SOFTHSM2_CONF=/configured") || !strings.Contains(env, "PATH=") {
		t.Errorf("it lacks what it needs:\n%s", env)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	for name, plan := range map[string][]behaviour{
		"an idle helper":            {{}},
		"one that hangs":            {{Hang: true}},
		"one that hangs in login":   {{HangInOpen: true}},
		"one that crashed":          {{Crash: true}},
		"one with calls under way":  {{Gate: true}},
		"one whose token is lost":   {{DecryptError: answered(deviceRemoved)}},
		"one whose PIN was refused": {{OpenError: &protocol.Error{Kind: protocol.Login, Code: pinIncorrect, Text: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, plan...)
			key, err := Open(f.config())
			if err != nil {
				t.Fatal(err)
			}
			w, _ := wrapped(t, kms.RSAOAEP256)
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() { _, _ = key.Unwrap(t.Context(), w, nil) })
			}
			for len(f.lines("logins")) == 0 {
				time.Sleep(time.Millisecond)
			}
			if err := key.Close(); err != nil {
				t.Error(err)
			}
			group.Wait()
			for _, pid := range f.lines("pids") {
				gone(t, pid)
			}
			if err := key.Close(); err != nil {
				t.Errorf("closing twice: %v", err)
			}
			_, err = key.Unwrap(t.Context(), w, nil)
			if err == nil {
				t.Error("a closed key unwraps")
			}
			noGoroutines(t)
		})
	}
}

func TestAConfigurationIsCheckedWithoutStartingAnything(t *testing.T) {
	good := newFake(t).config()
	for name, test := range map[string]struct {
		change func(c *Config)
		want   fault.Class
		says   string
	}{
		"no library":                 {func(c *Config) { c.Library = "" }, fault.Invalid, "library is missing"},
		"a library that is not here": {func(c *Config) { c.Library = "/nowhere/lib.so" }, fault.Invalid, "/nowhere/lib.so"},
		"a bare library name":        {func(c *Config) { c.Library = "lib.so" }, fault.Invalid, "absolute"},
		"serial and label":           {func(c *Config) { c.TokenSerial = "1" }, fault.Invalid, "serial"},
		"no key":                     {func(c *Config) { c.KeyLabel = "" }, fault.Invalid, "exactly one"},
		"key label and id":           {func(c *Config) { c.KeyID = []byte{1} }, fault.Invalid, "exactly one"},
		"an unknown user type":       {func(c *Config) { c.UserType = "root" }, fault.Invalid, "context_specific"},
		"no PIN for each use":        {func(c *Config) { c.UserType, c.PIN = "context_specific", "" }, fault.Invalid, "PIN"},
		"an unknown hash":            {func(c *Config) { c.OAEP = "md5" }, fault.Invalid, "sha256"},
		"too many sessions":          {func(c *Config) { c.MaxParallel = 5000 }, fault.Invalid, "5000"},
		"a negative timeout":         {func(c *Config) { c.CallTimeout = -1 }, fault.Invalid, "timeout"},
		"an environment without =":   {func(c *Config) { c.Env = []string{"X"} }, fault.Invalid, "NAME=value"},
		"a helper that is not here":  {func(c *Config) { c.Helper = "/nowhere/helper" }, fault.Invalid, "/nowhere/helper"},
		"no helper anywhere":         {func(c *Config) { c.Helper = "" }, fault.Unsupported, HelperName},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			c := good
			test.change(&c)
			_, err := Open(c)
			wantClass(t, err, test.want)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("it does not say %q: %v", test.says, err)
			}
		})
	}
	t.Run("all faults at once", func(t *testing.T) {
		_, err := Open(Config{Helper: good.Helper, OAEP: "x", UserType: "y"})
		for _, part := range []string{"library", "exactly one", `"x"`, `"y"`} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s is not in: %v", part, err)
			}
		}
	})
}

func TestTheHelperIsFoundInPATH(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, HelperName)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if got, err := findHelper(""); err != nil || got != path {
		t.Errorf("%q, %v; want %q", got, err, path)
	}
}

// patience tells a hang from an answer; nothing is measured by it.
const patience = 30 * time.Second

// gone waits until no process has the id: also a zombie has it.
func gone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); syscall.Kill(n, 0) != syscall.ESRCH; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the helper %d is still there, running or as a zombie", n)
		}
	}
}

// noGoroutines waits until none runs this package's code but the test.
func noGoroutines(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var stacks bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
			t.Fatal(err)
		}
		leak := ""
		for _, line := range strings.Split(stacks.String(), "\n") {
			if strings.Contains(line, "keys/pkcs11.(*process)") || strings.Contains(line, "keys/pkcs11.(*supervisor)") || strings.Contains(line, "keys/pkcs11.launch") {
				leak = line
			}
		}
		if leak == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a goroutine is left: %s", leak)
		}
	}
}
