package vllm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxProbeBytes bounds what is read of an answer: the help of vLLM 0.32 has 155 kB.
const maxProbeBytes = 2 << 20

// errNoProgram is a program that is not there, or is none.
var errNoProgram = errors.New("cannot be run")

// findProgram looks a name up on the PATH that the engine gets, which need not be this process's.
func findProgram(name string, env []string, dir string) (string, error) {
	usable := func(path string) error {
		if !filepath.IsAbs(path) && dir != "" {
			path = filepath.Join(dir, path)
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case info.IsDir() || filepath.Separator == '/' && info.Mode()&0o111 == 0:
			return &fs.PathError{Op: "exec", Path: path, Err: fs.ErrPermission}
		}
		return nil
	}
	if strings.ContainsRune(name, filepath.Separator) {
		if err := usable(name); err != nil {
			return "", fmt.Errorf("command %q %w: %w", name, errNoProgram, err)
		}
		return name, nil
	}
	search := lookup(env, "PATH")
	for _, folder := range filepath.SplitList(search) {
		path := filepath.Join(folder, name)
		if filepath.IsAbs(path) && usable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("command %q %w: it is not on the PATH %q", name, errNoProgram, clip(search, 500))
}

// lookup returns the value of a variable, the last where it is set twice, or "".
func lookup(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if key, value, _ := strings.Cut(v, "="); key == name {
			return value
		}
	}
	return ""
}

// environment is what the engine's processes get: this process's variables apart from its own
// settings, then those of the configuration, then what nobody has set.
func (s *Server) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "HXP_") {
			env = append(env, v)
		}
	}
	for name, value := range s.srv.Env {
		env = append(env, name+"="+value)
	}
	unset := func(name, value string) {
		if lookup(env, name) == "" {
			env = append(env, name+"="+value)
		}
	}
	unset("VLLM_NO_USAGE_STATS", "1")
	// Longer than this client keeps a connection, so that no request meets the server's closing of it.
	unset("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "30")
	// The deadline of a start is the Server's, which says what it waits for.
	unset("VLLM_ENGINE_READY_TIMEOUT_S", strconv.Itoa(int(max(time.Second, s.srv.StartTimeout).Seconds())))
	unset("PYTHONUNBUFFERED", "1")
	if lookup(env, "CUDA_VISIBLE_DEVICES") != "" {
		unset("CUDA_DEVICE_ORDER", "PCI_BUS_ID") // the numbers are then those of nvidia-smi
	}
	if s.srv.CPUs > 0 {
		unset("OMP_NUM_THREADS", strconv.Itoa(s.srv.CPUs))
	}
	if s.Engine.cfg.APIKey != "" {
		env = append(env, "VLLM_API_KEY="+s.Engine.cfg.APIKey)
	}
	return env
}

// redacted takes secrets out of a text.
func redacted(text string, secrets []string) string {
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, "[redacted]")
	}
	return text
}

// secretsOf returns what must not appear in a log: values of variables that are named like secrets.
func secretsOf(env []string) []string {
	var secrets []string
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		name = strings.ToUpper(name)
		for _, word := range []string{"KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"} {
			// Short values are words that stand in a log for other reasons: TOKENIZERS_PARALLELISM=false.
			if strings.Contains(name, word) && (len(value) >= 8 || name == "VLLM_API_KEY" && value != "") {
				secrets = append(secrets, value)
				break
			}
		}
	}
	return secrets
}

// probe asks the installed vLLM for its version and its flags, both at once. What it does not
// answer is said in words.
func (s *Server) probe(ctx context.Context, command, env []string) (knownFlags, []string) {
	var known knownFlags
	var words []string
	var version, help string
	var versionErr, helpErr error
	var both sync.WaitGroup
	both.Go(func() { version, versionErr = s.ask(ctx, command, env, "--version") })
	both.Go(func() {
		if help, helpErr = s.ask(ctx, command, env, "serve", "--help=all"); helpErr != nil && ctx.Err() == nil {
			help, helpErr = s.ask(ctx, command, env, "serve", "--help") // older versions know but this
		}
	})
	both.Wait()
	if known.version = parseVersion(version); known.version == "" {
		words = append(words, fmt.Sprintf("vLLM's version is not known: %v", cmpErr(versionErr, version)))
	}
	if known.names = parseHelp(help); known.names == nil {
		words = append(words, fmt.Sprintf("vLLM's flags cannot be read and are taken from a table of versions: %v", cmpErr(helpErr, help)))
	}
	return known, words
}

// cmpErr is why an answer was of no use.
func cmpErr(err error, out string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("it answered %q", clip(strings.TrimSpace(out), 200))
}

// ask runs a program to its end and returns what it printed.
func (s *Server) ask(ctx context.Context, command, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.srv.ProbeTimeout, fmt.Errorf("no answer within %s", s.srv.ProbeTimeout))
	defer cancel()
	return output(ctx, s.srv.Dir, env, maxProbeBytes, slices.Concat(command, args))
}

// output returns the bounded standard output of a program that must end within ctx.
func output(ctx context.Context, dir string, env []string, limit int64, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	// A child of the program may hold the pipe when it is killed.
	cmd.WaitDelay = time.Second
	out, errs := &bounded{limit: limit}, &bounded{limit: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		shown := strings.Join(append([]string{filepath.Base(argv[0])}, argv[1:]...), " ")
		if ctx.Err() != nil {
			return out.String(), fmt.Errorf("%s: %w", shown, context.Cause(ctx))
		}
		said := redacted(strings.Join(strings.Fields(errs.String()), " "), secretsOf(env))
		return out.String(), fmt.Errorf("%s: %w: %s", shown, err, clip(said, 300))
	}
	return out.String(), nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	strings.Builder

	limit int64
}

var _ io.Writer = (*bounded)(nil)

func (b *bounded) Write(p []byte) (int, error) {
	b.Builder.Write(p[:min(int64(len(p)), b.limit-int64(b.Len()))])
	return len(p), nil
}
