package lfs

import "context"

// DialFor connects as a request to addr would.
func (s *Server) DialFor(ctx context.Context, addr string) error {
	if err := s.open(); err != nil {
		return err
	}
	conn, err := s.dial(ctx, "tcp", addr)
	if err == nil {
		conn.Close()
	}
	return err
}
