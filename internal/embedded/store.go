package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// checkStore compares the streams on disk with those that the server has. It leaves out one that it
// cannot read, with no more than a line in its log; jobs that were accepted would be gone.
func checkStore(s *server.Server, dir string) error {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return fmt.Errorf("ask for the stored streams: %w", err)
	}
	have := map[string]bool{}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			have[account.Name+"/"+stream.Name] = true
		}
	}
	base := filepath.Join(dir, "jetstream")
	accounts, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	var errs []error
	for _, account := range accounts {
		streams, err := os.ReadDir(filepath.Join(base, account.Name(), "streams"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the store: %w", err)
		}
		for _, stream := range streams {
			// A dot marks what the server is deleting.
			if stream.IsDir() && !strings.HasPrefix(stream.Name(), ".") && !have[account.Name()+"/"+stream.Name()] {
				errs = append(errs, fmt.Errorf("stream %s is damaged and was not loaded: move %s away, or restore it from a copy",
					stream.Name(), filepath.Join(base, account.Name(), "streams", stream.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// diskRoom is how much the server may store: nine tenths of what is free or already its own.
func diskRoom(dir string) (int64, error) {
	free, err := diskFree(dir)
	if err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	used, err := diskUsed(dir)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return room(dir, free, used)
}

func room(dir string, free, used int64) (int64, error) {
	if free < minFree {
		return 0, fmt.Errorf("the disk of %s has %d MiB free; want at least %d MiB", dir, free>>20, minFree>>20)
	}
	return (free + used) / 10 * 9, nil
}

func diskUsed(dir string) (int64, error) {
	var used int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			used += info.Size()
		}
		return err
	})
	return used, err
}
