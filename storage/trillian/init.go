package trillian

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/trillian"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// CreateTree makes an empty tree for a log, with its first root, and returns its id.
func CreateTree(ctx context.Context, c Config, name string) (int64, error) {
	conn, err := Connect(c)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := checkTLS(ctx, c); err != nil {
		return 0, fmt.Errorf("making a tree in Trillian at %s: %w", c.Address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	tree, err := trillian.NewTrillianAdminClient(conn).CreateTree(ctx, &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_PREORDERED_LOG,
		DisplayName: short(name, 20), Description: short("sealtap log "+name, 200), MaxRootDuration: durationpb.New(0),
	}}, grpc.WaitForReady(true))
	if err != nil {
		return 0, fmt.Errorf("making a tree in Trillian at %s: %w", c.Address, reached(err))
	}
	if _, err = trillian.NewTrillianLogClient(conn).InitLog(ctx, &trillian.InitLogRequest{LogId: tree.TreeId}); err != nil {
		return 0, fmt.Errorf("giving tree %d of Trillian its first root: %w", tree.TreeId, reached(err))
	}
	return tree.TreeId, nil
}

// short returns the beginning of a name: as many bytes as Trillian has room for, and
// whole runes.
func short(s string, n int) string { return strings.ToValidUTF8(s[:min(n, len(s))], "") }
