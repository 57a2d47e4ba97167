package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/signing"
)

// Budgets of what machines do. An exchange is one read, and a second one when
// the limiter looks; a secret is read with at most two reads more than its own.
const (
	maxExchangeReads      = 1
	maxExchangeReadsAtAll = 2
	maxExchangeWrites     = 0.1 // of an exchange: none of its own
	maxSessionCalls       = 1
	maxSecretCalls        = 3
)

// machineTokens take turns, so that none is asked for more often than a limit
// allows.
const machineTokens = 64

// machines measures what the log-in of a machine costs, and a request of its.
func (b *bench) machines(ctx context.Context) ([]result, error) {
	calls, err := b.machineCalls(ctx)
	if err != nil {
		return nil, err
	}
	cpu, err := b.machineCPU(ctx)
	return append(calls, cpu...), err
}

// machineCalls counts what is asked of DynamoDB and KMS, request by request on
// the wire.
func (b *bench) machineCalls(ctx context.Context) (_ []result, err error) {
	cloud, err := b.startCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cloud.close()) }()
	documents := dynamodb.New(cloud.config, cloud.table)
	first, err := newExchange(documents, awskms.New(cloud.config, cloud.key), signing.RS256)
	if err != nil {
		return nil, err
	}
	o, err := newOrganization(ctx, documents, first.Machines, 2)
	if err != nil {
		return nil, err
	}
	token, err := o.newToken(ctx)
	if err != nil {
		return nil, err
	}
	id, err := o.newSecret(ctx, 0)
	if err != nil {
		return nil, err
	}
	if _, err := o.login(ctx, first, token); err != nil { // which makes the key that signs
		return nil, err
	}

	b.say("  a cold start, then warm exchanges")
	exchange, err := newExchange(documents, awskms.New(cloud.config, cloud.key), signing.RS256)
	if err != nil {
		return nil, err
	}
	var session string
	login := func() error { session, err = o.login(ctx, exchange, token); return err }
	cold, err := cloud.count(login)
	if err != nil {
		return nil, err
	}
	var reads []float64
	warm := counts{}
	exchanges := b.either(200, 60)
	for range exchanges {
		one, err := cloud.count(login)
		if err != nil {
			return nil, err
		}
		reads = append(reads, float64(one.reads()))
		warm.add(one)
	}

	b.say("  requests with a session")
	handler, err := newSecrets(documents, "")
	if err != nil {
		return nil, err
	}
	asked := b.either(100, 20)
	request := func(path string, want int) (cold, warm counts, err error) {
		ask := func() error { return expect(ctx, handler, path, session, want) }
		if cold, err = cloud.count(ask); err != nil {
			return nil, nil, err
		}
		warm, err = cloud.count(func() error {
			for range asked {
				if err := ask(); err != nil {
					return err
				}
			}
			return nil
		})
		return cold, warm, err
	}
	coldGet, warmGet, err := request("/secrets/"+id, http.StatusOK)
	if err != nil {
		return nil, err
	}
	// What is no id is not looked for: this is the check of the session alone.
	_, check, err := request("/secrets/none", http.StatusNotFound)
	if err != nil {
		return nil, err
	}
	perRequest := func(c counts) float64 { return float64(c.storage()) / float64(asked) }
	return []result{
		{
			What: "tokenexchange: storage reads of a warm exchange", Measured: median(reads), Unit: "calls", Budget: atMost(maxExchangeReads),
			Note: fmt.Sprintf("%d exchanges of one token: %s", exchanges, warm),
		},
		{What: "tokenexchange: storage reads of a warm exchange, the most", Measured: slices.Max(reads), Unit: "calls", Budget: atMost(maxExchangeReadsAtAll)},
		{What: "tokenexchange: storage writes of a warm exchange", Measured: float64(warm.writes()) / float64(exchanges), Unit: "calls", Budget: atMost(maxExchangeWrites)},
		{What: fmt.Sprintf("tokenexchange: KMS calls of %d warm exchanges", exchanges), Measured: float64(warm.kms()), Unit: "calls", Budget: atMost(0)},
		{What: "tokenexchange: storage calls of a cold exchange", Measured: float64(cold.storage()), Unit: "calls", Note: cold.String()},
		{What: "tokenexchange: KMS calls of a cold exchange", Measured: float64(cold.kms()), Unit: "calls"},
		{What: "secrets: storage calls of the check of a session", Measured: perRequest(check), Unit: "calls", Budget: atMost(maxSessionCalls), Note: check.String()},
		{
			What: "secrets: storage calls of a warm GET, the check included", Measured: perRequest(warmGet), Unit: "calls", Budget: atMost(maxSecretCalls),
			Note: fmt.Sprintf("%d requests: %s", asked, warmGet),
		},
		{What: "secrets: storage calls of a cold GET", Measured: float64(coldGet.storage()), Unit: "calls", Note: coldGet.String()},
	}, nil
}

// expect sends a GET and checks its status.
func expect(ctx context.Context, h http.Handler, path, session string, want int) error {
	request, err := sessionRequest(ctx, http.MethodGet, path, session, nil)
	if err != nil {
		return err
	}
	a := newAnswer()
	h.ServeHTTP(a, request)
	if a.status != want {
		return fmt.Errorf("GET %s: %d %s", path, a.status, a.body.String())
	}
	return nil
}

// reads are the calls that give documents.
func (c counts) reads() int {
	return c.sum(func(_, operation string) bool {
		return slices.Contains([]string{"GetItem", "BatchGetItem", "Query"}, operation)
	})
}

func (c counts) add(other counts) {
	for target, n := range other {
		c[target] += n
	}
}

// machineCPU measures the CPU time of an exchange beside the signature that it
// cannot do without, and that of a read of a secret beside the check of one.
func (b *bench) machineCPU(ctx context.Context) (_ []result, err error) {
	dir, err := b.folder("machines")
	if err != nil {
		return nil, err
	}
	key, err := software.Open(filepath.Join(dir, "software-key.pem"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	algorithms := []string{signing.RS256, signing.ES256}
	requests := b.either(100, 30)
	var contenders []func() (float64, error)
	for _, algorithm := range algorithms {
		driver := memory.New()
		exchange, err := newExchange(driver, key, algorithm)
		if err != nil {
			return nil, err
		}
		o, err := newOrganization(ctx, driver, exchange.Machines, 2)
		if err != nil {
			return nil, err
		}
		m, err := newMachine(ctx, o, exchange)
		if err != nil {
			return nil, err
		}
		bare, err := newSigner(algorithm, m.sessions[0])
		if err != nil {
			return nil, err
		}
		handler, err := newSecrets(driver, "")
		if err != nil {
			return nil, err
		}
		contenders = append(contenders,
			func() (float64, error) {
				return cpuPerCall(requests, func(n int) error {
					_, err := exchangeToken(ctx, exchange, m.tokens[n%machineTokens])
					return err
				})
			},
			func() (float64, error) { return cpuPerCall(requests, func(int) error { return bare.sign() }) },
			func() (float64, error) {
				return cpuPerCall(10*requests, func(n int) error {
					return expect(ctx, handler, "/secrets/"+m.secret, m.sessions[n%machineTokens], http.StatusOK)
				})
			},
			func() (float64, error) { return cpuPerCall(10*requests, func(int) error { return bare.verify() }) })
	}
	b.say("  %d rounds of %d exchanges and %d reads", b.rounds, requests, 10*requests)
	measured, err := interleave(b.rounds, contenders...)
	if err != nil {
		return nil, err
	}
	share := func(r result, what string) result {
		r.Note = fmt.Sprintf("the floor, %s, is %.0f %% of it", what, 100*r.Beside/r.Measured)
		return r
	}
	var results []result
	for i, algorithm := range algorithms {
		of := measured[4*i : 4*i+4]
		results = append(results,
			share(result{What: "tokenexchange: CPU of a warm exchange, " + algorithm, Unit: "µs", Bare: "bare signature"}.compare(of[0], of[1]), "one signature"),
			share(result{What: "secrets: CPU of a warm GET, " + algorithm, Unit: "µs", Bare: "bare check of one"}.compare(of[2], of[3]), "one check of a signature"))
	}
	return results, nil
}

// machineParts is what a machine has after it has logged in.
type machineParts struct {
	tokens   []accesstoken.Token
	sessions []string
	secret   string
}

func newMachine(ctx context.Context, o *organization, exchange http.Handler) (m machineParts, err error) {
	if m.tokens, err = o.newTokens(ctx, machineTokens); err != nil {
		return m, err
	}
	for _, token := range m.tokens {
		session, err := o.login(ctx, exchange, token)
		if err != nil {
			return m, err
		}
		m.sessions = append(m.sessions, session)
	}
	m.secret, err = o.newSecret(ctx, 0)
	return m, err
}

// signer is the least that makes and checks a session: one signature over as
// many bytes, by the standard library.
type signer struct {
	text      []byte
	signature []byte
	private   crypto.Signer
}

// newSigner signs what was signed in a session, with a key of its own.
func newSigner(algorithm, session string) (*signer, error) {
	s := &signer{text: []byte(session[:strings.LastIndexByte(session, '.')])}
	var err error
	if algorithm == signing.ES256 {
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, err
	}
	return s, s.sign()
}

func (s *signer) sign() (err error) {
	digest := sha256.Sum256(s.text)
	s.signature, err = s.private.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

func (s *signer) verify() error {
	digest := sha256.Sum256(s.text)
	switch public := s.private.Public().(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, digest[:], s.signature) {
			return errors.New("the signature is not valid")
		}
		return nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], s.signature)
	default:
		return fmt.Errorf("%T is not a key of sessions", public)
	}
}

// cpuPerCall is in µs. The heap is swept before, as cpuPerRequest does.
func cpuPerCall(n int, call func(n int) error) (float64, error) {
	runtime.GC()
	begin, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for i := range n {
		if err := call(i); err != nil {
			return 0, err
		}
	}
	end, err := cpuTime()
	if err != nil {
		return 0, err
	}
	return microseconds(end-begin) / float64(n), nil
}
