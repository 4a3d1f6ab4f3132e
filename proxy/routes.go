package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
)

// codeNoRoute is the Sealtap-Error of what no route takes.
const codeNoRoute = "no-route"

// Route says which requests go to which pool, and what holds for them there. The
// first route that fits a request takes it.
type Route struct {
	route.Rule
	// Service is the name in records.
	Service string
	// Upstream is the name of a pool.
	Upstream string
	// Templates are patterns such as /users/{id}; the first that fits a path
	// stands in the record. Without them Rule.Path does, if it names something.
	Templates []string
	// SealPath seals the paths of the route's requests, so that the identifiers
	// in them do not stand open beside the template.
	SealPath bool
	// StripPrefix cuts Rule.Prefix from the paths that go to the upstream.
	StripPrefix bool
	// FailOpen lets exchanges of the route pass that cannot be recorded.
	FailOpen bool
	// Receipts says that answers carry signed promises that their records exist.
	Receipts bool
	// Policy says which requests pass.
	Policy Policy
	// BodyBytes bounds the bodies of requests; zero means what Limits does.
	BodyBytes int64
	// BodyRate takes the place of that in Limits; zero means that, less means any.
	BodyRate int64
	// Rate bounds the requests of each client to the route; nil means that nothing
	// but Config.Rate does.
	Rate *Rate
	// ClientStall, ClientBody and AnswerIdle take the places of those in Timeouts;
	// zero means those.
	ClientStall, ClientBody, AnswerIdle time.Duration
}

// routing is what a reverse proxy knows of its routes.
type routing struct {
	table  *route.Table // nil where there is one route that takes everything
	routes []routed
	sealed bool // some route seals paths
}

// routed is a route at work. What a policy says of the requests of a route
// belongs here: an exchange has it as x.route from the start.
type routed struct {
	service   string
	pool      *pool
	templates []*route.Pattern
	sealPath  bool
	strip     int  // segments to cut from the front of paths
	open      bool // exchanges pass that cannot be recorded
	receipts  bool
	tally     *tally
	policy    *policy
	bodyBytes int64
	rate      *limited
	waits     waits
}

// reverse reports whether this is a reverse proxy.
func (p *Proxy) reverse() bool { return p.routing.routes != nil }

// newRouting compiles the routes and their pools.
func (p *Proxy) newRouting() error {
	c := &p.cfg
	switch {
	case c.Upstream != nil && (c.Routes != nil || c.Pools != nil):
		return fmt.Errorf("%w: there is one upstream, or there are pools and routes", ErrConfig)
	case c.Upstream != nil:
		q, err := p.newPool(&Pool{Name: c.Upstream.Host, Targets: []*url.URL{c.Upstream}, TLS: c.UpstreamTLS})
		if err != nil {
			return err
		}
		p.pools = []*pool{q}
		p.routing.routes = []routed{{service: c.Service, pool: q, open: c.FailOpen, receipts: c.Receipts, policy: p.policy, waits: p.waits}}
		return nil
	case len(c.Routes) == 0 && len(c.Pools) > 0:
		return fmt.Errorf("%w: no route leads to the pools", ErrConfig)
	case len(c.Routes) == 0:
		return nil
	}
	pools := make(map[string]*pool)
	for i := range c.Pools {
		name := c.Pools[i].Name
		if pools[name] != nil {
			return fmt.Errorf("%w: two pools have the name %q", ErrConfig, name)
		}
		q, err := p.newPool(&c.Pools[i])
		if err != nil {
			return err
		}
		pools[name] = q
		p.pools = append(p.pools, q)
	}
	rules := make([]route.Rule, len(c.Routes))
	for i := range c.Routes {
		r := &c.Routes[i]
		rules[i] = r.Rule
		done, err := r.compile(pools)
		done.waits = p.waits.with(r)
		if err != nil {
			return fmt.Errorf("%w: route %d: %w", ErrConfig, i+1, err)
		}
		p.routing.routes = append(p.routing.routes, done)
		p.routing.sealed = p.routing.sealed || r.SealPath
	}
	var err error
	if p.routing.table, err = route.NewTable(rules); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

func (r *Route) compile(pools map[string]*pool) (routed, error) {
	done := routed{service: r.Service, pool: pools[r.Upstream], sealPath: r.SealPath, open: r.FailOpen, receipts: r.Receipts}
	if r.Service == "" {
		return done, fmt.Errorf("it has no service")
	}
	if done.pool == nil {
		return done, fmt.Errorf("there is no upstream %q", r.Upstream)
	}
	for _, text := range r.Templates {
		t, err := route.ParsePattern(text)
		if err != nil {
			return done, fmt.Errorf("template %w", err)
		}
		done.templates = append(done.templates, t)
	}
	if len(r.Templates) == 0 && r.Path != "" {
		if t, err := route.ParsePattern(r.Path); err == nil && t.Named() {
			done.templates = append(done.templates, t)
		}
	}
	if r.StripPrefix {
		if r.Prefix == "" {
			return done, fmt.Errorf("there is no prefix to strip")
		}
		done.strip = strings.Count(strings.TrimSuffix(r.Prefix, "/"), "/")
	}
	done.bodyBytes = r.BodyBytes
	var err error
	if done.rate, err = r.Rate.compile(); err != nil {
		return done, err
	}
	done.policy, err = r.Policy.compile()
	return done, err
}

// choose finds the route of a request. If there is none the client is told, and
// choose reports false.
func (x *exchange) choose() bool {
	g := &x.p.routing
	switch {
	case g.routes == nil: // a forward proxy
		return true
	case g.table == nil:
		x.route = &g.routes[0]
		return true
	}
	authority, path, _ := x.target()
	i, err := g.table.Find(x.r.Method, authority, path)
	switch {
	case err != nil:
		x.refuse(http.StatusBadRequest, err.Error())
		return false
	case i == route.None:
		x.deny(http.StatusNotFound, codeNoRoute, "no route matches")
		return false
	}
	x.route = &g.routes[i]
	return true
}

// deny records a well-formed request that is not let through, and says why.
func (x *exchange) deny(status int, code, why string) {
	if x.body.none(); x.r.ContentLength != 0 {
		x.body.broken() // nothing of it was read
	}
	if x.open() {
		x.fail(status, code, sealtapv1.Outcome_OUTCOME_DENIED, why)
	}
}

// service is the name of the service that a request is for, in its record.
func (x *exchange) service() string {
	if x.route != nil {
		return x.route.service
	}
	if x.conn.inside != nil {
		return x.conn.inside.host.Name
	}
	return x.p.cfg.Service
}

// sealsPath reports whether the path of the request is sealed. The path of one
// that has no route is if that of any route is.
func (x *exchange) sealsPath() bool {
	if x.route != nil {
		return x.p.seal.path || x.route.sealPath
	}
	return x.p.seal.path || x.p.routing.sealed
}

// captureRoute records what follows from the route of a request.
func (x *exchange) captureRoute(q *sealtapv1.Request) {
	q.Service = x.service()
	if x.route == nil {
		return
	}
	_, path, _ := x.target()
	for _, t := range x.route.templates {
		if t.Match(path) {
			q.Template = capped(t.String(), maxTemplate)
			break
		}
	}
}

// sentPath is the path that goes to an upstream, escaped.
func (x *exchange) sentPath(path string, u *upstream) string {
	if x.route.strip > 0 {
		path = route.Strip(path, x.route.strip)
	}
	return u.prefix + path
}
