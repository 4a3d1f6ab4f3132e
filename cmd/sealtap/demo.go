package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/tlog/client"
)

func newDemo() *cobra.Command {
	var length time.Duration
	var keep string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A shop of three services under live traffic, then a tamper that gets caught",
		Long: `Runs three small services on this machine, each behind a proxy of its own, with a log and two
witnesses; sends them customers; finds, proves and audits what they did; then changes
copies of the log's data as somebody with root could, and audits those. Everything is
real. It takes some seconds and leaves nothing behind.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < time.Second || length > time.Hour {
				return usagef("--traffic %s: it is from 1s to 1h", length)
			}
			dir, err := os.MkdirTemp("", "sealtap-demo-")
			if keep != "" {
				dir, err = keep, os.MkdirAll(keep, 0o700)
			}
			if err != nil {
				return usageError{err}
			}
			if keep == "" {
				defer os.RemoveAll(dir)
			}
			return (&demo{dir: dir, out: cmd.OutOrStdout()}).run(cmd.Context(), length)
		},
	}
	cmd.Flags().DurationVar(&length, "traffic", 5*time.Second, "how long customers come")
	cmd.Flags().StringVar(&keep, "keep", "", "`DIR` for the data, which then stays")
	return cmd
}

// demo is one run of the demo.
type demo struct {
	dir   string
	out   io.Writer
	data  *dataDir
	conf  *config.File
	stack *stack
	shop  string // URL of the shop's proxy
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context, length time.Duration) (err error) {
	defer func() {
		if d.stack != nil {
			err = errors.Join(err, d.stack.stop())
		}
		if d.data != nil {
			d.data.close()
		}
	}()
	if err := d.start(ctx); err != nil {
		return err
	}
	bought, err := d.traffic(ctx, length)
	if err != nil {
		return err
	}
	if err := d.look(ctx, bought); err != nil {
		return err
	}
	return d.tamper(ctx, bought)
}

// start runs the log, the witnesses, and three services behind proxies.
func (d *demo) start(ctx context.Context) error {
	var err error
	f := upFlags{listen: "127.0.0.1:0", logListen: "127.0.0.1:0"}
	if d.data, err = openDataDir(filepath.Join(d.dir, "sealtap-data"), f); err != nil {
		return err
	}
	if d.conf, err = d.data.prepare(f); err != nil {
		return err
	}
	services := newServices()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d.stack = &stack{failed: make(chan error, 16)}
	if err := d.stack.startLog(ctx, d.conf, logger); err != nil {
		return err
	}
	d.say("A shop of three services, each behind its own sealtap proxy:\n")
	// The last of the chain first: each needs the address of the next one's proxy.
	next := ""
	for i := len(services) - 1; i >= 0; i-- {
		s := services[i]
		s.next = next
		if next, err = d.service(ctx, s, logger); err != nil {
			return err
		}
	}
	d.shop = next
	d.say("  customers -> [proxy] shop -> [proxy] orders -> [proxy] payments")
	d.say("                  |                |                |")
	d.say("                  +-------- records and seals ------+--> log -> witnesses")
	d.say("\n  shop's proxy  %s\n  log           %s\n  witnesses     w1, w2 (beside the log here; elsewhere in earnest)", d.shop, d.conf.Proxy.Log)
	return nil
}

// service runs one service and its proxy, whose URL it returns.
func (d *demo) service(ctx context.Context, s *shopPart, logger *slog.Logger) (string, error) {
	ln, err := listen("demo", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	d.stack.push(ctx, &service{
		run:   func(ctx context.Context) error { return serve.HTTP(ctx, ln, s) },
		close: func() error { return nil },
	})
	key, err := d.data.key(s.name, s.name, keys.Ed25519)
	if err != nil {
		return "", err
	}
	c := *d.conf.Proxy
	c.Upstream = config.URL{URL: &url.URL{Scheme: "http", Host: ln.Addr().String()}}
	c.Service, c.Listen = s.name, "127.0.0.1:0"
	c.Key, c.Spool = config.Path(d.data.file("keys", s.name+".key")), config.Path(d.data.file("spool-"+s.name))
	if err := enrol(ctx, d.conf, key.Public); err != nil {
		return "", err
	}
	p, err := startProxy(&c, d.conf.SHA256, logger)
	if err != nil {
		return "", err
	}
	d.stack.push(ctx, p)
	return "http://" + p.addr, nil
}

// shopPart is one of the three services: it does its part of a purchase and
// passes it on.
type shopPart struct {
	name string
	do   string // path of its part
	next string // proxy of the next service; "" for the last
	says func(item string) map[string]any
}

func newServices() []*shopPart {
	price := func(item string) int { return 100 * len(item) }
	return []*shopPart{
		{name: "shop", do: "/buy", says: func(item string) map[string]any { return map[string]any{"bought": item} }},
		{name: "orders", do: "/order", says: func(item string) map[string]any { return map[string]any{"order": item, "state": "placed"} }},
		{name: "payments", do: "/charge", says: func(item string) map[string]any {
			return map[string]any{"charged": price(item), "currency": "EUR"}
		}},
	}
}

// ServeHTTP implements [http.Handler].
func (s *shopPart) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	item := r.FormValue("item")
	if r.URL.Path != s.do || item == "" {
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	answer := s.says(item)
	if s.next != "" {
		after, err := s.pass(r, item)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		answer["then"] = after
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// pass asks the next service, in the same trace and for the same customer.
func (s *shopPart) pass(r *http.Request, item string) (any, error) {
	path := map[string]string{"shop": "/order", "orders": "/charge"}[s.name]
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, s.next+path, strings.NewReader(url.Values{"item": {item}}.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, h := range []string{"Traceparent", "Authorization"} {
		req.Header.Set(h, r.Header.Get(h))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var after any
	return after, json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&after)
}

// purchase is one that the demo looks at closer.
type purchase struct{ exchange, trace string }

// traffic sends customers for a while and returns the purchase of one of them.
func (d *demo) traffic(ctx context.Context, length time.Duration) (purchase, error) {
	var it purchase
	items := []string{"book", "lamp", "chair", "umbrella"}
	who := []string{"alice", "bob", "carol"}
	const bad = 42 // which of the customers is mallory
	count, start := 0, time.Now()
	end := start.Add(length)
	for ; (time.Now().Before(end) || count <= bad) && ctx.Err() == nil; count++ {
		customer := who[count%len(who)]
		if count == bad {
			customer = "mallory"
		}
		trace := fmt.Sprintf("%032x", 0x5ea17a9000+count)
		x, err := d.buy(ctx, customer, items[count%len(items)], trace)
		if err != nil {
			return it, err
		}
		if customer == "mallory" {
			it = purchase{x, trace}
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.say("\n%d purchases in %s: %d exchanges, two records each, all durable before\nthey happened. One of the customers is mallory.", count, time.Since(start).Round(time.Second), 3*count)
	return it, ctx.Err()
}

func (d *demo) buy(ctx context.Context, customer, item, trace string) (exchange string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.shop+"/buy", strings.NewReader(url.Values{"item": {item}}.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	req.SetBasicAuth(customer, "correct horse")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("buying: %s", resp.Status))
	}
	return resp.Header.Get("Sealtap-Exchange"), nil
}

// command runs sealtap as a user would, and shows it.
func (d *demo) command(want int, args ...string) error {
	var out bytes.Buffer
	code := run(append(args, "--policy", d.data.file("policy.txt")), &out, &out)
	// As it would look to somebody in the demo's directory.
	here := strings.NewReplacer(d.dir+"/", "")
	d.say("\n$ sealtap %s\n%s", here.Replace(strings.Join(args, " ")), strings.TrimSuffix(here.Replace(out.String()), "\n"))
	if code != want {
		return failure{fmt.Errorf("sealtap %s exits %d, not %d", args[0], code, want)}
	}
	return nil
}

// look finds, proves and audits.
func (d *demo) look(ctx context.Context, it purchase) error {
	r := reading{policyFile: d.data.file("policy.txt")}
	rd, err := r.open(ctx)
	if err != nil {
		return err
	}
	// The first record of the exchange to be in the log is not the last.
	for start := time.Now(); ; {
		list, err := rd.places(ctx, it.exchange)
		if err == nil && len(list) == 2 {
			break
		}
		if err != nil && !errors.Is(err, client.ErrUnavailable) || time.Since(start) > 10*time.Second {
			return errors.Join(err, errors.New("the purchase does not reach the log"))
		}
		time.Sleep(100 * time.Millisecond)
		if err := rd.refresh(ctx); err != nil {
			return err
		}
	}
	d.say("\nWho accessed what? One purchase, followed through all three services:")
	d.say("\n$ sealtap query --trace %s", it.trace)
	s := search{reading: r, limit: 10, values: map[string]*string{"trace": &it.trace}}
	values, err := s.query(time.Now())
	if err != nil {
		return err
	}
	values.Set("stage", "response")
	list, _, err := s.fetch(ctx, rd, values)
	if err != nil {
		return err
	}
	if err := printExchanges(ctx, d.out, rd, list, true); err != nil {
		return err
	}
	evidence := filepath.Join(d.dir, "mallory.evidence")
	if err := d.command(exitGood, "prove", it.exchange, "--out", evidence); err != nil {
		return err
	}
	if err := d.command(exitGood, "verify", evidence); err != nil {
		return err
	}
	return d.command(exitGood, "audit", d.conf.Proxy.Log.String())
}

// tamper does to copies of the log's data what mallory would like to.
func (d *demo) tamper(ctx context.Context, it purchase) error {
	r := reading{policyFile: d.data.file("policy.txt")}
	rd, err := r.open(ctx)
	if err != nil {
		return err
	}
	list, err := rd.places(ctx, it.exchange)
	if err != nil {
		return err
	}
	index := list[0]
	copied := filepath.Join(d.dir, "altered")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		return err
	}
	if err := copyLog(ctx, d.data.file("log.db"), filepath.Join(copied, "log.db")); err != nil {
		return err
	}
	d.say("\nNow mallory gets root on the log's machine and turns into alice, in entry %d:", index)
	err = alterEntry(ctx, filepath.Join(copied, "log.db"), index, func(entry []byte) {
		copy(entry[bytes.Index(entry, []byte("mallory")):], "alice--")
	})
	if err != nil {
		return err
	}
	if err := d.command(exitFailed, "audit", copied, "--state", "none"); err != nil {
		return err
	}
	d.say("\nSo mallory removes the record, rebuilds the whole tree, and signs its head with\nthe log's own key, which is on that machine too:")
	key, err := loadKey("log.key", string(d.conf.Log.Key), keys.Ed25519)
	if err != nil {
		return err
	}
	dropped := filepath.Join(d.dir, "rebuilt")
	if err := os.MkdirAll(dropped, 0o700); err != nil {
		return err
	}
	if err := dropEntry(ctx, d.data.file("log.db"), filepath.Join(dropped, "log.db"), index, key); err != nil {
		return err
	}
	if err := d.command(exitFailed, "audit", dropped, "--state", "none"); err != nil {
		return err
	}
	d.say("\nBoth were caught: no witness cosigned that head, and the shop's own seal says\nthat a record is missing. To try it on your services: sealtap up --upstream URL")
	return nil
}

// copyLog copies the database of a running log, consistently.
func copyLog(ctx context.Context, from, to string) error {
	db, err := sql.Open("sqlite3", from)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, to)
	return err
}
