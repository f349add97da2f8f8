package console

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
)

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	pageStyle []byte

	pageTemplate = template.Must(template.New("page").Parse(pageText))
)

// overview is what the page shows.
type overview struct {
	Members []Member
	Actors  []Actor // with the deepest mailboxes
}

// page renders the overview whole before it answers. It runs no script and
// asks nothing of other hosts.
func (c *console) page(w http.ResponseWriter, r *http.Request) error {
	members, err := c.Cluster.Members(r.Context())
	if err != nil {
		return fmt.Errorf("reading members: %w", err)
	}
	actors, err := c.Cluster.Actors(r.Context(), Filter{Sort: SortMailbox, Limit: 20})
	if err != nil {
		return fmt.Errorf("reading actors: %w", err)
	}
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, overview{members, actors}); err != nil {
		return fmt.Errorf("rendering the page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	serveStatic(w, "text/html; charset=utf-8", body.Bytes())
	return nil
}

func style(w http.ResponseWriter, _ *http.Request) error {
	serveStatic(w, "text/css; charset=utf-8", pageStyle)
	return nil
}

func serveStatic(w http.ResponseWriter, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	// An error here means that the client has gone.
	_, _ = w.Write(body)
}
