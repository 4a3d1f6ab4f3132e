package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// watchEvery is the time between two looks at a configuration file.
const watchEvery = 2 * time.Second

// stamp tells versions of a file apart.
type stamp struct {
	changed time.Time
	size    int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{} // somebody is about to put another one there
	}
	return stamp{info.ModTime(), info.Size()}
}

// watch calls reload when somebody asks for it, and when a file has changed and
// then stayed as it is from one look to the next. A file that is bad is
// reloaded again once it changes.
func watch(ctx context.Context, path string, asked <-chan os.Signal, every time.Duration, reload func(context.Context, string) error) {
	read := stampOf(path)
	before := read
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			read = stampOf(path)
			before = read
		case <-tick.C:
			now := stampOf(path)
			settled := now == before && now != stamp{}
			before = now
			if now == read || !settled {
				continue
			}
			read = now
		}
		_ = reload(ctx, path) // it has said so
	}
}

// follow serves, tells the supervisor how it is, and follows changes of the
// configuration if the service can.
func (s *service) follow(ctx context.Context, path string) error {
	above, err := newSupervisor()
	if err != nil {
		return errors.Join(err, s.close())
	}
	defer above.close()
	parts := []func(context.Context) error{s.run}
	if s.reload != nil {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGHUP)
		defer signal.Stop(asked)
		parts = append(parts, func(ctx context.Context) error {
			watch(ctx, path, asked, watchEvery, func(ctx context.Context, path string) error {
				above.reloading()
				defer above.say("READY=1") // with the new configuration or the old
				return s.reload(ctx, path)
			})
			return nil
		})
	}
	s.run = func(ctx context.Context) error { return together(ctx, parts...) }
	defer context.AfterFunc(ctx, func() { above.say("STOPPING=1") })()
	beating, stop := context.WithCancel(context.WithoutCancel(ctx)) // to the end: stopping is no reason to be shot
	defer stop()
	go above.beat(beating, s.alive)
	above.say("READY=1")
	return s.serve(ctx)
}
