package pgtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Set changes settings of the server, each a name=value, and starts it again with
// them.
func (s *Server) Set(settings ...string) error {
	s.settings = append(s.settings, settings...) // of two of a name the last one counts
	s.Stop(syscall.SIGINT)
	return s.Run()
}

// Write puts a file beside those of the server, which alone can read it, and returns
// its path.
func (s *Server) Write(name string, data []byte) (string, error) {
	path := filepath.Join(s.dir, name)
	err := os.WriteFile(path, data, 0o600)
	if s.cred != nil {
		err = errors.Join(err, os.Chown(path, int(s.cred.Uid), int(s.cred.Gid)))
	}
	return path, err
}

// Dir is the directory of the server's files.
func (s *Server) Dir() string { return s.dir }

// Exec runs a statement in the database postgres.
func (s *Server) Exec(statement string) error {
	conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(context.Background(), statement)
	return errors.Join(err, conn.Close(context.Background()))
}
