package software

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
)

// openInChild makes the test binary open the key at the path and print its
// version, as one of many processes that start at once.
const openInChild = "LATCHKEY_TEST_OPEN_SOFTWARE_KEY"

func TestMain(m *testing.M) {
	if path := os.Getenv(openInChild); path != "" {
		key, err := Open(path)
		if err == nil {
			var d kms.Description
			if d, err = key.Describe(context.Background()); err == nil {
				os.Stdout.WriteString(d.Ref.Version)
			}
		}
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestTheFileConforms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
		key, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return key
	})
}

func TestAKeyIsMadeWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	key, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	description, err := key.Describe(t.Context())
	if err != nil || description.Public.N.BitLen() != 3072 || description.Ref.ID != "key.pem" {
		t.Errorf("%+v, %v", description, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v; want the key alone", entries, err)
	}
	if w := key.Warning(); !strings.Contains(w, path) || !strings.Contains(w, "DEVELOPMENT ONLY") {
		t.Errorf("the warning: %s", w)
	}
}

func TestManyProcessesAtOnceEndWithOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	type child struct {
		cmd *exec.Cmd
		out bytes.Buffer
	}
	children := make([]*child, 4)
	for i := range children {
		c := &child{cmd: exec.CommandContext(t.Context(), self)}
		c.cmd.Env = append(os.Environ(), openInChild+"="+path)
		c.cmd.Stdout, c.cmd.Stderr = &c.out, os.Stderr
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children[i] = c
	}
	for _, c := range children {
		if err := c.cmd.Wait(); err != nil {
			t.Error(err)
		}
		if version := c.out.String(); version == "" || version != children[0].out.String() {
			t.Errorf("one has the key %q, another %q", version, children[0].out.String())
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v; want the key alone", entries, err)
	}
}

func TestWhatACrashLeavesIsIgnored(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".key.pem.123"), []byte("half a ke"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "key.pem")); err != nil {
		t.Error(err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	encode := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	generate := func(bits int) *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := encode(generate(2048))
	for _, test := range []struct {
		name string
		data []byte
		mode os.FileMode
		want fault.Class
		says string
	}{
		{"one that the group can read", good, 0o640, fault.Denied, "chmod 600"},
		{"one that all can read", good, 0o604, fault.Denied, "chmod 600"},
		{"an empty one", nil, 0o600, fault.Invalid, "backup"},
		{"half a key", good[:len(good)/2], 0o600, fault.Invalid, "backup"},
		{"a key and more", append(bytes.Clone(good), good...), 0o600, fault.Invalid, "backup"},
		{"a damaged key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0o600, fault.Invalid, "PKCS#8"},
		{"an elliptic curve key", encode(ec), 0o600, fault.Invalid, "RSA"},
		{"a weak key", encode(generate(1024)), 0o600, fault.Invalid, "1024"},
		{"one that is too large", make([]byte, maxFile+1), 0o600, fault.Invalid, "larger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			if fault.Of(err) != test.want || !strings.Contains(err.Error(), test.says) {
				t.Errorf("class %q, want %q that says %q: %v", fault.Of(err), test.want, test.says, err)
			}
			after, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(after, test.data) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestFoldersThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "absent", "key.pem")); fault.Of(err) != fault.NotFound {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := Open(dir); fault.Of(err) != fault.Invalid {
		t.Errorf("a folder instead of a file: %v", err)
	}
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "key.pem")); fault.Of(err) != fault.Denied {
		t.Errorf("a folder that cannot be written: %v", err)
	}
}
