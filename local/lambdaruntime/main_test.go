package lambdaruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
)

// The test binary is also the bootstrap: which one is said by a variable that
// the instances get, so each test runs a real process with aws-lambda-go in it.
const bootstrapMode = "LATCHKEY_TEST_BOOTSTRAP"

func TestMain(m *testing.M) {
	switch os.Getenv(bootstrapMode) {
	case "":
		os.Exit(m.Run())
	case "http":
		awslambda.Start(httpFunction())
	case "raw":
		lambda.Start(rawFunction)
	case "exit at the start":
		fmt.Fprintln(os.Stderr, "a setting is missing")
		os.Exit(7)
	case "report a failed start":
		reportFailedStart()
	case "hang at the start":
		time.Sleep(time.Hour)
	case "ask twice":
		askWithoutAnswering()
	}
}

// report is what the function under test saw.
type report struct {
	Method, Path, Query, Host, RemoteAddr string
	Headers                               http.Header
	Body                                  []byte
	PID                                   int
	Environment                           []string
	Folder                                string
}

func httpFunction() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		folder, _ := os.Getwd()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report{
			Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, RemoteAddr: r.RemoteAddr,
			Headers: r.Header, Body: body, PID: os.Getpid(), Environment: os.Environ(), Folder: folder,
		})
	})
	mux.HandleFunc("/binary", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	})
	mux.HandleFunc("/nothing", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("the secret") })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) { select {} })
	mux.HandleFunc("/print", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.URL.Query().Get("line"))
		fmt.Fprint(os.Stderr, "no line break")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		_, _ = fmt.Fprintf(w, "%s %d", r.URL.Query().Get("n"), os.Getpid())
	})
	return mux
}

func rawFunction(ctx context.Context, event map[string]string) (any, error) {
	invocation, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	switch event["do"] {
	case "fail":
		return nil, errors.New("it did not work")
	case "panic":
		panic("all is lost")
	case "sleep":
		time.Sleep(time.Hour)
	case "note":
		return nil, takeNote(event["file"], event["failures"], invocation.AwsRequestID)
	case "answer with":
		return bytes.NewBufferString(event["answer"]), nil
	case "answer with bytes":
		n, err := strconv.Atoi(event["n"])
		return bytes.NewBufferString(strings.Repeat("x", n)), err
	case "break off":
		return io.MultiReader(strings.NewReader("half"), failingReader{}), nil
	}
	return map[string]any{
		"requestId": invocation.AwsRequestID, "arn": invocation.InvokedFunctionArn,
		"pid": os.Getpid(), "hasDeadline": time.Until(deadline) > 0, "trace": ctx.Value("x-amzn-trace-id"),
	}, nil
}

// takeNote writes down an invocation, and fails while there are not more of them
// than failures.
func takeNote(path, failures, id string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s %d\n", id, os.Getpid())
	content, readErr := os.ReadFile(path)
	wanted, numberErr := strconv.Atoi(failures)
	if err := errors.Join(err, file.Close(), readErr, numberErr); err != nil {
		return err
	}
	if bytes.Count(content, []byte("\n")) <= wanted {
		return errors.New("not yet")
	}
	return nil
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("broken off") }

func reportFailedStart() {
	response, err := http.Post("http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+"/2018-06-01/runtime/init/error", "application/json",
		strings.NewReader(`{"errorType":"Config.Invalid","errorMessage":"a setting is missing"}`))
	if err == nil && response.StatusCode != http.StatusAccepted {
		fmt.Fprintln(os.Stderr, response.Status)
	}
	os.Exit(1)
}

func askWithoutAnswering() {
	for {
		response, err := http.Get("http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/next")
		if err != nil {
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		// An answer for an invocation that it does not have is refused.
		response, err = http.Post("http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+"/2018-06-01/runtime/invocation/another/response", "", nil)
		if err != nil || response.StatusCode != http.StatusBadRequest {
			os.Exit(2)
		}
		_ = response.Body.Close()
	}
}
