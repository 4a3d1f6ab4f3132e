package trillian

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sealtap/sealtap/storage/postgres"
)

const (
	handshakeTime = 5 * time.Second // enough for a server that is there
	alertTime     = time.Second
)

// checkTLS refuses a server of which TLS shows that it is not the one that was meant. gRPC
// would go on trying, as it does with one that is not there yet; of such ones nothing is
// said here.
func checkTLS(ctx context.Context, c Config) error {
	if c.TLS == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	config := c.TLS.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{NetDialer: postgres.Dialer(), Config: config}).DialContext(ctx, "tcp", c.Address)
	if err == nil {
		defer conn.Close()
		// Whether a client's certificate is missed is said behind the handshake (RFC 8446, section
		// 4.4.2.4); otherwise the settings of HTTP/2 come first.
		_ = conn.SetReadDeadline(time.Now().Add(alertTime))
		_, err = conn.Read(make([]byte, 1))
	}
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return fmt.Errorf("it does not accept this client: %w; name a certificate in tls.cert and tls.key", alert.Err)
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return fmt.Errorf("its certificate is not accepted: %w", certificate.Err)
	}
	if errors.As(err, new(tls.RecordHeaderError)) {
		return errors.New("it does not speak TLS: give it a certificate (--tls_cert_file, --tls_key_file)")
	}
	return nil
}
