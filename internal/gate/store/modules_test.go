package store

import "testing"

// Spec/gate.md §20: 57. Each address stands in the operator's list as well, in its own words and resolved:
// what is odd is refused all the same, and a relative URL stays at the upstream's server.
func TestJudgeModules(t *testing.T) {
	const upstream = "https://git.test/ada/shop.git"
	for written, want := range map[string]string{
		"https://git.test/ada/lib":      "https://git.test/ada/lib",
		"../lib":                        "https://git.test/ada/lib",
		"git@git.test:ada/lib":          "git@git.test:ada/lib",
		"ext::sh -c 'touch canary'":     "",
		"fd::7":                         "",
		"--upload-pack=touch canary":    "",
		"-u./x":                         "",
		"file:///srv/lib":               "",
		"/srv/lib":                      "",
		"lib":                           "",
		"git://git.test/ada/lib":        "",
		"http://git.test/ada/lib":       "",
		"https://me:secret@git.test/l":  "",
		"https://token@git.test/l":      "",
		"ssh://-oProxyCommand=x/l":      "",
		"../../../evil.test/lib":        "",
		"../../../../../../srv/lib":     "",
		"../x/../../lib":                "",
		"":                              "",
		"https://git.test/\x1b]0;x\x07": "",
	} {
		allowed := []string{written, "https://git.test/ada/lib", "https://evil.test/lib", "/srv/lib"}
		list := judgeModules("submodule.a.path\nlib\x00submodule.a.url\n"+written+"\x00", upstream, allowed)
		if len(list) != 1 || list[0].Mirrored != (want != "") || want != "" && list[0].Address != want || want == "" && list[0].Why == "" {
			t.Errorf("%q: %+v, want %q", written, list, want)
		}
	}
	if m := judgeModules("submodule.a.url\nhttps://git.test/ada/lib\x00", upstream, nil); m[0].Mirrored {
		t.Errorf("not listed: %+v", m)
	}
	if m := judgeModules("submodule.a.url\nhttps://git.test/x\x00submodule.a.url\nhttps://git.test/ada/lib\x00", upstream, []string{"https://git.test/x"}); len(m) != 1 || m[0].Mirrored {
		t.Errorf("the last entry counts: %+v", m)
	}
}
