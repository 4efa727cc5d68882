package moderation

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// personal is a kind of personal data that can be masked by its name.
type personal struct {
	pattern string
	most    int
	valid   func(match []byte) bool
	token   string
}

// personalData are the built-in masks. Where digits alone would be too many, a check digit or a bound decides.
var personalData = map[string]personal{
	"email": {
		pattern: `[\pL\pN._%+\-]+@[\pL\pN](?:[\pL\pN.\-]*[\pL\pN])?\.\pL{2,24}`,
		most:    254, token: "[EMAIL]",
	},
	"phone": {
		pattern: `\+[1-9][0-9]{0,3}(?:[ .\-/]?\(?[0-9]{1,5}\)?){1,6}` +
			`|\(?[0-9]{3}\)?[ .\-]?[0-9]{3}[ .\-][0-9]{4}` +
			`|0[0-9]{1,4}[ /\-][0-9]{3,9}(?:[ \-][0-9]{1,6}){0,3}`,
		most: 32, valid: func(m []byte) bool { n := digits(m); return n >= 7 && n <= 15 }, token: "[PHONE]",
	},
	"credit_card": {pattern: `[2-6][0-9]{3}(?:[ \-]?[0-9]){8,15}`, most: 40, valid: luhn, token: "[CREDIT_CARD]"},
	"iban":        {pattern: `[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]){11,30}`, most: 68, valid: iban, token: "[IBAN]"},
	"ipv4":        {pattern: `[0-9]{1,3}(?:\.[0-9]{1,3}){3}`, most: 15, valid: address, token: "[IPV4]"},
	"ipv6":        {pattern: `(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}`, most: 39, valid: address6, token: "[IPV6]"},
	"us_ssn":      {pattern: `[0-9]{3}-[0-9]{2}-[0-9]{4}`, most: 11, valid: ssn, token: "[SSN]"},
}

// Personal lists the kinds of personal data that [Rules.Personal] can name.
func Personal() []string { return slices.Sorted(maps.Keys(personalData)) }

func digits(m []byte) int {
	n := 0
	for _, c := range m {
		if '0' <= c && c <= '9' {
			n++
		}
	}
	return n
}

// luhn is the check digit of payment cards, ISO/IEC 7812-1.
func luhn(m []byte) bool {
	sum, n := 0, 0
	for _, c := range slices.Backward(m) {
		if c < '0' || c > '9' {
			continue
		}
		d := int(c - '0')
		if n%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		n++
	}
	return sum%10 == 0 && n >= 12 && n <= 19
}

// iban is the check of ISO 13616: the first four characters moved to the end, letters as 10 to 35, modulo 97.
func iban(m []byte) bool {
	m = bytes.ReplaceAll(m, []byte{' '}, nil)
	if len(m) < 15 || len(m) > 34 {
		return false
	}
	rest := 0
	for _, c := range slices.Concat(m[4:], m[:4]) {
		switch {
		case '0' <= c && c <= '9':
			rest = (rest*10 + int(c-'0')) % 97
		default:
			rest = (rest*100 + int(c|0x20-'a') + 10) % 97
		}
	}
	return rest == 1
}

func address(m []byte) bool {
	_, err := netip.ParseAddr(string(m))
	return err == nil
}

// address6 wants some digits as well: a pair of colons is an address, and much else.
func address6(m []byte) bool {
	return len(m)-bytes.Count(m, []byte{':'}) >= 5 && address(m)
}

// ssn refuses the numbers that are never given out.
func ssn(m []byte) bool {
	area, _ := strconv.Atoi(string(m[:3])) // the pattern has digits there
	return area != 0 && area != 666 && area < 900 && string(m[4:6]) != "00" && string(m[7:]) != "0000"
}
