package app

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quietFor is how long files must have been left alone before they are read: an editor writes in several steps.
const quietFor = 100 * time.Millisecond

// watcher tells when files have changed: written in place, replaced by a rename, or behind a symbolic
// link that was turned round, as Kubernetes does with ..data. It watches their folders, since
// what a name stands for may be another file by then. A nil watcher sees nothing.
type watcher struct {
	fs    *fsnotify.Watcher
	files []string
	names []string // of the files, and of what they are links to
	sums  map[string]sum
	timer *time.Timer
}

// sum is what a file holds, or that it cannot be read.
type sum struct {
	hash  [sha256.Size]byte
	empty bool
}

// watchFiles watches files, of which there may be none.
func watchFiles(files []string) (*watcher, error) {
	if len(files) == 0 {
		return nil, nil
	}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{fs: fs, files: files, sums: map[string]sum{}, timer: time.NewTimer(quietFor)}
	w.timer.Stop()
	for _, f := range files {
		if err := fs.Add(filepath.Dir(f)); err != nil {
			return nil, errors.Join(err, fs.Close())
		}
	}
	w.follow()
	w.settled()
	return w, nil
}

// follow watches the folders of the files that links lead to as well. A folder that cannot be watched
// is left: the link's own is.
func (w *watcher) follow() {
	if w == nil {
		return
	}
	w.names = []string{"..data"}
	for _, f := range w.files {
		w.names = append(w.names, filepath.Base(f))
		if to, err := filepath.EvalSymlinks(f); err == nil && to != filepath.Clean(f) {
			w.names = append(w.names, filepath.Base(to))
			_ = w.fs.Add(filepath.Dir(to))
		}
	}
}

// events brings what happens in the folders, errors what cannot be told: that too much has happened, for one.
func (w *watcher) events() (<-chan fsnotify.Event, <-chan error) {
	if w == nil {
		return nil, nil
	}
	return w.fs.Events, w.fs.Errors
}

// stir notes that something has happened to name, or to anything if that is "".
func (w *watcher) stir(name string) {
	if name == "" || slices.Contains(w.names, filepath.Base(name)) {
		w.timer.Reset(quietFor)
	}
}

// quiet brings the moment when the files have been left alone for a while.
func (w *watcher) quiet() <-chan time.Time {
	if w == nil {
		return nil
	}
	return w.timer.C
}

// settled reports whether the files hold something else than when it was last asked. A file that is
// away or empty is being written: there will be another event.
func (w *watcher) settled() bool {
	if w == nil {
		return true
	}
	changed := false
	sums := map[string]sum{}
	for _, f := range w.files {
		data, err := readBounded(f)
		switch now, before := (sum{sha256.Sum256(data), len(data) == 0}), w.sums[f]; {
		case errors.Is(err, os.ErrNotExist) || now.empty && err == nil && !before.empty && len(w.sums) > 0:
			return false
		default:
			sums[f] = now
			changed = changed || now != before
		}
	}
	w.sums = sums
	return changed
}

func (w *watcher) close() error {
	if w == nil {
		return nil
	}
	w.timer.Stop()
	return w.fs.Close()
}
