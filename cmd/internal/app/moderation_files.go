package app

import (
	"bytes"
	"crypto/sha256"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// moderationFiles are those that the policies name.
func (c *Config) moderationFiles() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.Moderation.Policies)) {
		p := c.Moderation.Policies[name]
		for _, file := range []string{p.PhrasesFile, p.Endpoint.APIKeyFile} {
			if file != "" && !slices.Contains(out, file) {
				out = append(out, file)
			}
		}
	}
	return out
}

// CheckFiles reads the files that the configuration names, and says what is wrong with them.
func (c *Config) CheckFiles() error {
	checked := *c
	err := checked.prepare()
	checked.release()
	return err
}

// prepare makes the policies ready, with what is in their files: what a worker needs beside its settings.
func (c *Config) prepare() error {
	c.moderator, c.moderated = nil, [32]byte{}
	if len(c.Moderation.Policies) == 0 {
		return nil
	}
	read := sha256.New()
	f := faults{sources: map[string]Source{}}
	for _, s := range c.settings {
		f.sources[s.Path] = s.Source
	}
	configs := map[string]moderation.Config{}
	for _, name := range slices.Sorted(maps.Keys(c.Moderation.Policies)) {
		p, path := c.Moderation.Policies[name], policiesPath+"."+name
		cfg := p.config()
		if text := p.read(p.PhrasesFile, maxPhrasesFile, path+".phrases_file", &f); text != nil {
			_, _ = read.Write(text)
			cfg.Rules.Phrases = append(slices.Clone(cfg.Rules.Phrases), lines(text)...)
			for _, fault := range cfg.Check() {
				f.add(path+".phrases_file", "%s %s", fault.Path, fault.Text)
			}
		}
		if key := p.read(p.Endpoint.APIKeyFile, maxKeyFile, path+".endpoint.api_key_file", &f); key != nil && cfg.Endpoint != nil {
			cfg.Endpoint.APIKey = string(bytes.TrimSpace(key))
			_, _ = read.Write(key) // a hash takes everything
		}
		configs[name] = cfg
	}
	err := f.err()
	if err == nil {
		c.moderator, err = moderation.New(configs, c.Moderation.assignment())
	}
	read.Sum(c.moderated[:0])
	return err
}

// read returns what is in a file, or nil if there is none.
func (ModerationPolicy) read(name string, most int64, path string, f *faults) []byte {
	if name == "" {
		return nil
	}
	file, err := os.Open(name)
	if err != nil {
		f.add(path, "%v", err)
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	_ = file.Close() // it was only read
	switch {
	case err != nil:
		f.add(path, "%v", err)
	case int64(len(data)) > most:
		f.add(path, "%s is longer than %d bytes", name, most)
	case len(bytes.TrimSpace(data)) == 0:
		f.add(path, "%s is empty", name)
	default:
		return data
	}
	return nil
}

// lines are the phrases in a file.
func lines(text []byte) []string {
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// moderates is the moderator as package workers takes it.
func (c *Config) moderates() workers.Moderator {
	if c.moderator == nil {
		return nil
	}
	return c.moderator
}

// release closes what prepare has opened.
func (c *Config) release() {
	if c.moderator != nil {
		c.moderator.Close()
	}
}
