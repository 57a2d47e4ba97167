package pkcs11

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// HelperName is the file name of the helper process.
const HelperName = "latchkey-pkcs11"

// Config says which library, token and key.
type Config struct {
	// Helper is the path of the helper process. Empty: HelperName in the folder
	// of this executable, else in PATH.
	Helper string
	// Library is the absolute path of the vendor's library, or "yubihsm" or
	// "opensc" for the first of their usual places that exists.
	Library string
	// InitArgs is given to C_Initialize (pReserved). NSS needs it:
	// "configdir='sql:/path' certPrefix='' keyPrefix='' secmod='secmod.db' flags=".
	InitArgs string
	// Env is what the helper gets as environment, as "NAME=value", beside the
	// few variables that it inherits (inherited). Vendor libraries are pointed
	// to their configuration this way.
	Env []string

	// TokenSerial or TokenLabel names the token; with neither there has to be
	// exactly one. Blanks at the end do not count.
	TokenSerial string
	TokenLabel  string

	// UserType is who logs in: "user" (default), "so" (security officer), or
	// "context_specific": as user, and once more for each use of the key, where
	// the key asks for that. A key that says so itself (CKA_ALWAYS_AUTHENTICATE)
	// is used that way in any case.
	UserType string
	// PIN may be empty for a token that needs no login.
	PIN PIN

	// KeyLabel (CKA_LABEL) or KeyID (CKA_ID, its bytes) names the private key;
	// exactly one of the two.
	KeyLabel string
	KeyID    []byte
	// Public is the public half, for a token that does not show it. Where it
	// does, they have to be equal.
	Public *rsa.PublicKey

	// OAEP is "sha1" or "sha256", the hash to wrap with; empty: SHA-256 where a
	// trial shows that the token can, else SHA-1. Unwrapping follows what each
	// wrapped value says.
	OAEP string
	// MaxParallel is how many sessions work at once. 0 means 1.
	MaxParallel int
	// ReadWriteSession opens sessions that could write, for libraries that want
	// it (older AWS CloudHSM clients).
	ReadWriteSession bool

	// CallTimeout is how long one decryption may take before the helper counts
	// as hanging and is replaced; 0 means 10 s. StartTimeout is the same for
	// loading the library and logging in; 0 means 30 s.
	CallTimeout  time.Duration
	StartTimeout time.Duration

	// Log gets what the library prints and when the helper is replaced; nil: nothing.
	Log *slog.Logger
}

// PIN is a secret that does not print itself.
type PIN string

const redacted = "[redacted]"

// String hides the PIN.
func (PIN) String() string { return redacted }

// GoString hides the PIN.
func (PIN) GoString() string { return redacted }

// LogValue hides the PIN.
func (PIN) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the PIN.
func (PIN) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// inherited are the variables that the helper gets of this process: what a
// program needs, and where known libraries look for their configuration. All
// else, the secrets of our own configuration above all, stays here.
var inherited = []string{
	"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
	"SOFTHSM2_CONF", "YUBIHSM_PKCS11_CONF", "OPENSC_CONF", "P11_KIT_SERVER_ADDRESS", "P11_KIT_SERVER_PID",
	"ChrystokiConfigurationPath", "NFAST_HOME", "CS_PKCS11_R3_CFG", "CLOUDHSM_PKCS11_CONFIG_FILE", "FXPKCS11_CFG", "NITROHSM_CONF", "P11NETHSM_CONFIG_FILE",
}

// The libraries that have a name, as file names, and the folders that
// distributions put them in.
var (
	namedLibraries = map[string][]string{
		"yubihsm": {"yubihsm_pkcs11.so", "yubihsm_pkcs11.dylib"},
		"opensc":  {"opensc-pkcs11.so", "opensc-pkcs11.dylib"},
	}
	libraryFolders = []string{
		"/usr/lib/x86_64-linux-gnu/pkcs11", "/usr/lib/aarch64-linux-gnu/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11",
		"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
		"/usr/local/lib/pkcs11", "/usr/local/lib", "/opt/homebrew/lib/pkcs11", "/opt/homebrew/lib",
	}
)

// checked fills in the defaults and finds the files, or names every fault.
func (c Config) checked() (Config, error) {
	var faults []error
	invalid := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s", fault.Invalid, fmt.Sprintf(format, args...)))
	}
	if c.TokenSerial != "" && c.TokenLabel != "" {
		invalid("both the token's serial and its label are given; give one")
	}
	if (c.KeyLabel == "") == (len(c.KeyID) == 0) {
		invalid("exactly one of the private key's label and its id is needed")
	}
	switch c.UserType {
	case "":
		c.UserType = protocol.User
	case protocol.User, protocol.SecurityOfficer, protocol.ContextSpecific:
	default:
		invalid("user type %q; there are %s, %s and %s", c.UserType, protocol.User, protocol.SecurityOfficer, protocol.ContextSpecific)
	}
	if c.UserType == protocol.ContextSpecific && c.PIN == "" {
		invalid("the user type %s needs a PIN", protocol.ContextSpecific)
	}
	switch c.OAEP {
	case "", protocol.SHA1, protocol.SHA256:
	default:
		invalid("OAEP hash %q; there are %s and %s, or leave it empty", c.OAEP, protocol.SHA1, protocol.SHA256)
	}
	if c.Public != nil {
		if err := kms.CheckRSA(c.Public); err != nil {
			faults = append(faults, fmt.Errorf("the given public key: %w", err))
		}
	}
	if c.MaxParallel < 0 || c.MaxParallel > 1024 {
		invalid("%d sessions; 1 to 1024 are possible", c.MaxParallel)
	}
	if c.CallTimeout < 0 || c.StartTimeout < 0 {
		invalid("a timeout below zero")
	}
	for _, setting := range c.Env {
		if name, _, found := strings.Cut(setting, "="); !found || name == "" {
			invalid("the helper's environment has to be of the form NAME=value")
		}
	}
	c.MaxParallel = max(c.MaxParallel, 1)
	if c.CallTimeout == 0 {
		c.CallTimeout = 10 * time.Second
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.Library, err = findLibrary(c.Library); err != nil {
		faults = append(faults, err)
	}
	if c.Helper, err = findHelper(c.Helper); err != nil {
		faults = append(faults, err)
	}
	return c, errors.Join(faults...)
}

func findLibrary(library string) (string, error) {
	if library == "" {
		return "", fmt.Errorf("%w: the path of the PKCS#11 library is missing", fault.Invalid)
	}
	if names, known := namedLibraries[strings.ToLower(library)]; known {
		for _, folder := range libraryFolders {
			for _, name := range names {
				if path := filepath.Join(folder, name); exists(path) {
					return path, nil
				}
			}
		}
		return "", fmt.Errorf("%w: the library of %s (%s) is not in any of %s; install it, or give its path",
			fault.Invalid, library, names[0], strings.Join(libraryFolders, ", "))
	}
	// A bare name would be searched for in folders that somebody else may fill.
	if !filepath.IsAbs(library) {
		return "", fmt.Errorf("%w: the PKCS#11 library %q is neither an absolute path nor one of the known names yubihsm, opensc", fault.Invalid, library)
	}
	if !exists(library) {
		return "", fmt.Errorf("%w: there is no PKCS#11 library %s", fault.Invalid, library)
	}
	return library, nil
}

func findHelper(helper string) (string, error) {
	if helper != "" {
		if !exists(helper) {
			return "", fmt.Errorf("%w: there is no PKCS#11 helper %s", fault.Invalid, helper)
		}
		return filepath.Abs(helper)
	}
	name := HelperName
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); exists(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: the helper %s is neither beside this program nor in PATH; it is built with cgo: "+
			"CGO_ENABLED=1 go build -o %s github.com/latchkey-fn/latchkey/providers/keys/pkcs11/helper", fault.Unsupported, name, name)
	}
	return path, nil
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func (c Config) environment() []string {
	var env []string
	for _, name := range inherited {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return append(env, c.Env...) // of two with one name, the later counts
}

// request is what the helper is told. The only place where the PIN leaves Config.
func (c Config) request() *protocol.Open {
	return &protocol.Open{
		Library: c.Library, InitArgs: c.InitArgs,
		TokenSerial: c.TokenSerial, TokenLabel: c.TokenLabel,
		UserType: c.UserType, PIN: string(c.PIN),
		KeyLabel: c.KeyLabel, KeyID: c.KeyID,
		Sessions: c.MaxParallel, ReadWrite: c.ReadWriteSession,
		PublicKnown: c.Public != nil,
	}
}
