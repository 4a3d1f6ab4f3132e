package record

import (
	"fmt"
	"testing"

	"github.com/sealtap/sealtap/keys"
)

func TestReceipts(t *testing.T) {
	key, err := keys.Generate("shop.example/proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	stream := NewStream(key.ID())
	for _, n := range []int{1, 2, 3, 5, 8, 100, 1024} {
		var list []Promise
		for i := range n {
			list = append(list, Promise{stream, uint64(i), int64(i) * 1000, LeafHash(fmt.Append(nil, i)), 3600})
		}
		batch, err := SignPromises(list, signer)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			r, err := ParseReceipt(batch.Receipt(i).String())
			if err != nil {
				t.Fatal(err)
			}
			if r.Promise != list[i] {
				t.Fatalf("receipt %d of %d: %v, want %v", i, n, r.Promise, list[i])
			}
			if err := r.Verify(key.Public); err != nil {
				t.Fatalf("receipt %d of %d: %v", i, n, err)
			}
		}
	}
	if _, err := SignPromises(nil, signer); err == nil {
		t.Error("a batch of none was signed")
	}
}

// TestReceiptEachBitCounts flips each bit of a receipt: nothing in it is without
// meaning.
func TestReceiptEachBitCounts(t *testing.T) {
	key, err := keys.Generate("proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	stream := NewStream(key.ID())
	batch, err := SignPromises([]Promise{{Stream: stream}, {Stream: stream, Sequence: 1}, {Stream: stream, Sequence: 2, Time: 7, Delay: 60}}, signer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := parseBase64Line([]byte(batch.Receipt(2).String()))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(raw) {
		raw[bit/8] ^= 1 << (bit % 8)
		line := base64Line(raw)
		if r, err := ParseReceipt(string(line[:len(line)-1])); err == nil && r.Verify(key.Public) == nil {
			t.Errorf("a receipt with bit %d flipped is believed", bit)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

// TestReceiptIsNoSeal: what a receipt's signature is over can be read as nothing
// else that a producer signs, and the reverse.
func TestReceiptIsNoSeal(t *testing.T) {
	text := receiptText(NewStream(keys.ID{1}), 1, Hash{})
	if _, err := ParseSeal(append(append([]byte{}, text...), "\n— proxy AAAA\n"...)); err == nil {
		t.Error("a receipt's note is a seal")
	}
}

func TestFindReceipts(t *testing.T) {
	key, err := keys.Generate("proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	stream := NewStream(key.ID())
	batch, err := SignPromises([]Promise{{Stream: stream}, {Stream: stream, Sequence: 1}}, signer)
	if err != nil {
		t.Fatal(err)
	}
	a, b := batch.Receipt(0).String(), batch.Receipt(1).String()
	for _, text := range []string{
		a + "\n" + b, a + ", " + b + "\n",
		"HTTP/1.1 200 OK\r\nDate: x\r\nSealtap-Receipt: " + a + "\r\nTrailer: Sealtap-Receipt\r\n\r\nbody\r\nsealtap-receipt: " + b + "\r\n",
		"< sealtap-receipt: " + a + "\n< sealtap-receipt: " + b + "\n",
	} {
		list, err := FindReceipts([]byte(text))
		if err != nil || len(list) != 2 || list[1].Sequence != 1 {
			t.Errorf("%q: %d receipts, %v", text, len(list), err)
		}
	}
	if _, err := FindReceipts([]byte("HTTP/1.1 200 OK\n\n")); err == nil {
		t.Error("a receipt was found where there is none")
	}
}

func FuzzReceipt(f *testing.F) {
	f.Add("AQA=")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseReceipt(text)
		if err == nil && r.String() != text {
			t.Errorf("%q reads as %q", text, r.String())
		}
	})
}
