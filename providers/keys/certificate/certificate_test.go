package certificate

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"software.sslmate.com/src/go-pkcs12"
)

const testPassword = "test-password"

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantError(t *testing.T, err error, class fault.Class, says string) {
	t.Helper()
	if err == nil || fault.Of(err) != class || !strings.Contains(err.Error(), says) {
		t.Errorf("error of class %q, want %q that says %q: %v", fault.Of(err), class, says, err)
	}
}

// TestOfficialKeyConnectorDataOpens opens a database of the official Key
// Connector with its own certificate: both were made for a test and protect
// nothing.
func TestOfficialKeyConnectorDataOpens(t *testing.T) {
	password := string(readFile(t, "testdata/official.password"))
	key, err := Open(Config{Path: "testdata/official.pfx", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	var data struct{ SymmetricKey, UserKey, Expected []byte }
	if err := json.Unmarshal(readFile(t, "testdata/official.json"), &data); err != nil {
		t.Fatal(err)
	}
	description, err := key.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := kms.Wrapped{Key: description.Ref, Algorithm: kms.RSAOAEP, Ciphertext: data.SymmetricKey}
	dataKey, err := kms.Unwrap(t.Context(), key, w, nil)
	if err != nil || len(dataKey) != 32 {
		t.Fatalf("a data key of %d bytes, %v", len(dataKey), err)
	}
	// A user key is AES-256-GCM: ciphertext, tag, and the nonce at the end.
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	end := len(data.UserKey) - gcm.NonceSize()
	user, err := gcm.Open(nil, data.UserKey[end:], data.UserKey[:end], nil)
	if err != nil || !bytes.Equal(user, data.Expected) {
		t.Errorf("the user key %s, %v; want %s", base64.StdEncoding.EncodeToString(user), err, base64.StdEncoding.EncodeToString(data.Expected))
	}
}

func TestCertificateFilesConform(t *testing.T) {
	for name, c := range map[string]Config{
		"PKCS#12 of the official Key Connector": {"testdata/official.pfx", string(readFile(t, "testdata/official.password"))},
		"PKCS#12 with RC2 and SHA-1":            {"testdata/legacy.pfx", testPassword},
		"PKCS#12 with an empty password":        {"testdata/empty-password.pfx", ""},
		"PEM":                                   {"testdata/key-and-cert.pem", ""},
	} {
		t.Run(name, func(t *testing.T) {
			kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
				key, err := Open(c)
				if err != nil {
					t.Fatal(err)
				}
				return key
			})
		})
	}
}

func TestTheFilesOfOneKeyAreTheSameKey(t *testing.T) {
	var refs []kms.Ref
	for _, c := range []Config{{"testdata/legacy.pfx", testPassword}, {"testdata/empty-password.pfx", ""}, {"testdata/key-and-cert.pem", ""}} {
		key, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		description, err := key.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, description.Ref)
	}
	for _, ref := range refs[1:] {
		if !refs[0].Opens(ref) || ref.ID == refs[0].ID {
			t.Errorf("%s does not open what was wrapped to %s", refs[0], ref)
		}
	}
}

func TestAWrongPasswordIsItsOwnError(t *testing.T) {
	for _, path := range []string{"testdata/official.pfx", "testdata/legacy.pfx", "testdata/empty-password.pfx"} {
		for _, password := range []string{"wrong-password", "", " ", strings.Repeat("x", 10_000)} {
			if path == "testdata/empty-password.pfx" && password == "" {
				continue
			}
			_, err := Open(Config{path, password})
			wantError(t, err, fault.Denied, "password")
			if err != nil && len(password) > 1 && strings.Contains(err.Error(), password) {
				t.Errorf("%s: the error holds the password", path)
			}
		}
	}
	_, err := Open(Config{"testdata/legacy.pfx", "not a \xff\xfe UTF-8 \U0001F511 password"})
	if err == nil || strings.Contains(err.Error(), "\U0001F511") {
		t.Errorf("a password that PKCS#12 cannot express: %v", err)
	}
}

func TestPEMFiles(t *testing.T) {
	private, certificate := newKey(t, 2048)
	_, otherCertificate := newKey(t, 2048)
	small, smallCertificate := newKey(t, 1024)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return block("PRIVATE KEY", der, err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	sec1 := block("EC PRIVATE KEY", ecDER, err)
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private), nil)
	cert, other := block("CERTIFICATE", certificate.Raw, nil), block("CERTIFICATE", otherCertificate.Raw, nil)
	legacyEncrypted := "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"

	for _, test := range []struct {
		name, content string
		want          fault.Class
		says          string
	}{
		{"PKCS#8", pkcs8(private), "", ""},
		{"PKCS#1", pkcs1, "", ""},
		{"certificate, then key", cert + pkcs1, "", ""},
		{"key, then certificate", pkcs1 + cert, "", ""},
		{"key among a chain", other + pkcs8(private) + cert, "", ""},
		{"Windows line ends and text around", "Bag Attributes\r\n  x\r\n" + strings.ReplaceAll(cert+pkcs1, "\n", "\r\n"), "", ""},
		{"certificate only", cert, fault.Invalid, "no private key"},
		{"two keys", pkcs1 + pkcs8(private), fault.Invalid, "several"},
		{"the certificate of another key", pkcs1 + other, fault.Invalid, "does not belong"},
		{"an elliptic curve key", pkcs8(ec), fault.Invalid, "RSA"},
		{"an elliptic curve key, SEC 1", sec1, fault.Invalid, "RSA"},
		{"a weak key", pkcs8(small) + block("CERTIFICATE", smallCertificate.Raw, nil), fault.Invalid, "1024"},
		{"an encrypted key", block("ENCRYPTED PRIVATE KEY", []byte{1}, nil), fault.Unsupported, "openssl pkcs12"},
		{"an encrypted key of the old kind", legacyEncrypted, fault.Unsupported, "openssl pkcs12"},
		{"a key cut short", pkcs1[:len(pkcs1)/2], fault.Invalid, "no private key"},
		{"a damaged key", block("RSA PRIVATE KEY", []byte("secret?"), nil), fault.Invalid, "RSA PRIVATE KEY"},
		{"a damaged certificate", pkcs1 + block("CERTIFICATE", []byte{1}, nil), fault.Invalid, "CERTIFICATE"},
		{"nothing", "", fault.Invalid, "empty"},
		{"other text", "hello", fault.Invalid, "neither"},
		{"too much", strings.Repeat(" ", maxFile+1), fault.Invalid, "larger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := Open(Config{Path: writeFile(t, "k.pem", []byte(test.content))})
			if test.want != "" {
				wantError(t, err, test.want, test.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			description, err := key.Describe(t.Context())
			if err != nil || !description.Public.Equal(&private.PublicKey) || description.Ref.ID != "k.pem" {
				t.Errorf("another key: %+v, %v", description, err)
			}
		})
	}
}

func TestPKCS12Files(t *testing.T) {
	private, certificate := newKey(t, 2048)
	small, smallCertificate := newKey(t, 1024)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(e *pkcs12.Encoder, key any, chain []*x509.Certificate, password string) []byte {
		t.Helper()
		data, err := e.Encode(key, certificate, chain, password)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, test := range []struct {
		name     string
		data     []byte
		password string
		want     fault.Class
		says     string
	}{
		{"AES and SHA-256", encode(pkcs12.Modern, private, nil, "p"), "p", "", ""},
		{"3DES and SHA-1", encode(pkcs12.LegacyDES, private, nil, "p"), "p", "", ""},
		{"RC2 and SHA-1", encode(pkcs12.LegacyRC2, private, nil, "p"), "p", "", ""},
		{"no password and no MAC", encode(pkcs12.Passwordless, private, nil, ""), "", "", ""},
		{"a password that is not ASCII", encode(pkcs12.Modern, private, nil, "größer ✓"), "größer ✓", "", ""},
		{"a chain", encode(pkcs12.Modern, private, []*x509.Certificate{smallCertificate}, "p"), "p", "", ""},
		{"many rounds", encode(pkcs12.Modern.WithIterations(600_000), private, nil, "p"), "p", "", ""},
		{"too many rounds", withIterations(t, encode(pkcs12.Modern, private, nil, "p"), maxIterations+1), "p", fault.Invalid, "rounds"},
		{"a password for a file without", encode(pkcs12.Passwordless, private, nil, ""), "p", fault.Invalid, "MAC"},
		{"the certificate of another key", encode(pkcs12.Modern, small, nil, "p"), "p", fault.Invalid, "does not belong"},
		{"an elliptic curve key", encode(pkcs12.Modern, ec, nil, "p"), "p", fault.Invalid, "RSA"},
		{"cut short", encode(pkcs12.Modern, private, nil, "p")[:1000], "p", fault.Invalid, "neither"},
		{"a certificate only", certificate.Raw, "p", fault.Invalid, "neither"},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := Open(Config{Path: writeFile(t, "k.pfx", test.data), Password: test.password})
			if test.want != "" {
				wantError(t, err, test.want, test.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			description, err := key.Describe(t.Context())
			if err != nil || !description.Public.Equal(&private.PublicKey) {
				t.Errorf("another key: %+v, %v", description, err)
			}
		})
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	_, err := Open(Config{Path: filepath.Join(t.TempDir(), "absent.pfx")})
	wantError(t, err, fault.NotFound, "absent.pfx")
	_, err = Open(Config{Path: t.TempDir()})
	wantError(t, err, fault.Invalid, "directory")
	_, err = Parse("from-a-blob", nil, "")
	wantError(t, err, fault.Invalid, "from-a-blob")
}

func TestThePublicKeyOfACertificate(t *testing.T) {
	private, certificate := newKey(t, 2048)
	_, weak := newKey(t, 1024)
	pfx, err := pkcs12.Modern.Encode(private, certificate, nil, "p")
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	for name, c := range map[string]Config{
		"PEM":     {Path: writeFile(t, "c.pem", inPEM)},
		"DER":     {Path: writeFile(t, "c.der", certificate.Raw)},
		"PKCS#12": {writeFile(t, "c.pfx", pfx), "p"},
	} {
		if public, err := PublicKey(c); err != nil || !public.Equal(&private.PublicKey) {
			t.Errorf("%s: another key, or %v", name, err)
		}
	}
	_, err = PublicKey(Config{writeFile(t, "c.pfx", pfx), "wrong"})
	wantError(t, err, fault.Denied, "password")
	_, err = PublicKey(Config{Path: writeFile(t, "weak.der", weak.Raw)})
	wantError(t, err, fault.Invalid, "1024")
	_, err = PublicKey(Config{Path: writeFile(t, "k.pem", pem.EncodeToMemory(&pem.Block{Type: "X"}))})
	wantError(t, err, fault.Invalid, "no certificate")
	_, err = PublicKey(Config{Path: "testdata/absent"})
	wantError(t, err, fault.NotFound, "absent")
}

// TestWhatOpenSSLWrites covers the forms of the tool that most files come from.
func TestWhatOpenSSLWrites(t *testing.T) {
	openssl := testenv.Tool(t, "openssl")
	dir := t.TempDir()
	run := func(t *testing.T, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	// As in Bitwarden's own instructions.
	run(t, "req", "-x509", "-newkey", "rsa:4096", "-sha256", "-nodes", "-keyout", "k.pem", "-out", "c.pem", "-days", "36500", "-subj", "/CN=Bitwarden Key Connector")
	for name, args := range map[string][]string{
		"as it comes":    nil,
		"-legacy":        {"-legacy"},
		"-descert":       {"-legacy", "-descert"},
		"AES-128":        {"-keypbe", "AES-128-CBC", "-certpbe", "AES-128-CBC"},
		"key not hidden": {"-keypbe", "NONE", "-certpbe", "NONE"},
		"SHA-512 MAC":    {"-macalg", "sha512"},
		"many rounds":    {"-iter", "100000"},
		"a friendly name": {"-name", "Schlüssel",
			"-CSP", "Microsoft Enhanced RSA and AES Cryptographic Provider", "-keyex"},
	} {
		for _, password := range []string{"pass word", ""} {
			t.Run(name+", password "+password, func(t *testing.T) {
				run(t, append([]string{"pkcs12", "-export", "-inkey", "k.pem", "-in", "c.pem", "-out", "k.pfx", "-passout", "pass:" + password}, args...)...)
				key, err := Open(Config{filepath.Join(dir, "k.pfx"), password})
				if err != nil {
					t.Fatal(err)
				}
				description, err := key.Describe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				public, err := PublicKey(Config{Path: filepath.Join(dir, "c.pem")})
				if err != nil || !description.Public.Equal(public) {
					t.Errorf("another key: %v", err)
				}
			})
		}
	}
	t.Run("no MAC", func(t *testing.T) {
		run(t, "pkcs12", "-export", "-inkey", "k.pem", "-in", "c.pem", "-out", "k.pfx", "-passout", "pass:", "-nomac")
		if _, err := Open(Config{Path: filepath.Join(dir, "k.pfx")}); err != nil {
			t.Error(err)
		}
	})
}

func FuzzFiles(f *testing.F) {
	for _, name := range []string{"official.pfx", "legacy.pfx", "empty-password.pfx", "key-and-cert.pem"} {
		f.Add(readFile(f, filepath.Join("testdata", name)), testPassword)
	}
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"), "")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		if len(data) > 8<<10 || len(password) > 1<<10 {
			return // larger ones only take longer
		}
		key, err := Parse("fuzz", data, password)
		if err != nil && fault.Of(err) == "" {
			t.Errorf("an error without a class: %v", err)
		}
		if err == nil {
			if _, err := key.Describe(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, err := parsePublic(data, password); err != nil && fault.Of(err) == "" {
			t.Errorf("public: an error without a class: %v", err)
		}
	})
}

func newKey(t *testing.T, bits int) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return private, certificate
}

// withIterations asks for more rounds of the MAC in a PKCS#12 file, which ends
// with their number.
func withIterations(t *testing.T, data []byte, count int) []byte {
	t.Helper()
	var pfx struct {
		Version int
		Safe    asn1.RawValue
		Mac     struct {
			Digest asn1.RawValue
			Salt   []byte
			Count  int
		}
	}
	if _, err := asn1.Unmarshal(data, &pfx); err != nil {
		t.Fatal(err)
	}
	pfx.Mac.Count = count
	data, err := asn1.Marshal(pfx)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
