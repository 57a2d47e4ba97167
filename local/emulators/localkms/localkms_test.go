package localkms

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

func client(server *Server) *kms.Client {
	return kms.NewFromConfig(aws.Config{
		Region:      Region,
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
	}, func(o *kms.Options) { o.BaseEndpoint = aws.String(server.URL) })
}

func start(t *testing.T, dir string) *Server {
	t.Helper()
	server, err := Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(server.URL, "http://127.0.0.1:") {
		t.Errorf("it listens on %s, not on loopback alone", server.URL)
	}
	return server
}

func closeAfter(t *testing.T, server *Server) {
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func symmetricKey(t *testing.T, service *kms.Client) *string {
	t.Helper()
	made, err := service.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return made.KeyMetadata.Arn
}

func code(err error) string {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return ""
	}
	return api.ErrorCode()
}

func TestKeysSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	key := symmetricKey(t, client(server))
	sealed, err := client(server).Encrypt(t.Context(), &kms.EncryptInput{KeyId: key, Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	server = start(t, dir)
	opened, err := client(server).Decrypt(t.Context(), &kms.DecryptInput{KeyId: key, CiphertextBlob: sealed.CiphertextBlob})
	if err != nil || !bytes.Equal(opened.Plaintext, []byte("secret")) {
		t.Errorf("%v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFolderThatCannotBeUsedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := t.TempDir()
	closeAfter(t, start(t, taken))
	for _, dir := range []string{file, taken} {
		if again, err := Start(dir); err == nil {
			closeAfter(t, again)
			t.Errorf("%s was opened", dir)
		}
	}
}

func TestItRefusesWhatTheServiceRefuses(t *testing.T) {
	server := start(t, t.TempDir())
	closeAfter(t, server)
	service := client(server)
	key, other := symmetricKey(t, service), symmetricKey(t, service)
	sealed, err := service.Encrypt(t.Context(), &kms.EncryptInput{KeyId: key, Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	renamed := bytes.Clone(sealed.CiphertextBlob)
	renamed[10] ^= 1
	for name, test := range map[string]struct {
		key  *string
		blob []byte
		want string
	}{
		"a ciphertext that names another key":  {key, renamed, "IncorrectKeyException"},
		"a ciphertext of another key":          {other, sealed.CiphertextBlob, "InvalidCiphertextException"},
		"a length beyond the end":              {key, bytes.Repeat([]byte{0xff}, 100), "InvalidCiphertextException"},
		"a ciphertext shorter than its header": {key, sealed.CiphertextBlob[:len(sealed.CiphertextBlob)-40], "InvalidCiphertextException"},
	} {
		if _, err := service.Decrypt(t.Context(), &kms.DecryptInput{KeyId: test.key, CiphertextBlob: test.blob}); code(err) != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if _, err := service.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key, Message: []byte("m"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}); code(err) != "UnsupportedOperationException" {
		t.Errorf("an operation that it does not have: %v", err)
	}
}
