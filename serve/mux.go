package serve

import "net/http"

// Mux is an [http.ServeMux] that can say what it serves, so that documentation
// and other muxes need no list of their own.
type Mux struct {
	http.ServeMux
	routes []route
}

type route struct {
	pattern string
	handler http.Handler
}

// NewMux returns a mux without routes.
func NewMux() *Mux { return new(Mux) }

// Handle registers a handler like [http.ServeMux.Handle].
func (m *Mux) Handle(pattern string, h http.Handler) {
	m.ServeMux.Handle(pattern, h)
	m.routes = append(m.routes, route{pattern, h})
}

// HandleFunc registers a handler like [http.ServeMux.HandleFunc].
func (m *Mux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.Handle(pattern, http.HandlerFunc(h))
}

// Mount registers everything that another mux serves under the same patterns,
// except for its answer to all that is left.
func (m *Mux) Mount(other *Mux) {
	for _, r := range other.routes {
		if r.pattern != "/" {
			m.Handle(r.pattern, r.handler) // the same pattern has the same path values here
		}
	}
}

// Routes returns the patterns in the order in which they were registered.
func (m *Mux) Routes() []string {
	list := make([]string, len(m.routes))
	for i, r := range m.routes {
		list[i] = r.pattern
	}
	return list
}
