// Render prints what Helm makes of a chart, or kubectl of a kustomization, as one stream of YAML:
//
//	render chart FOLDER [NAME=VALUE…]
//	render kustomization FOLDER
package main

import (
	"fmt"
	"os"
	"path"
	"sort"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	text, err := render(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

func render(args []string) (string, error) {
	switch {
	case len(args) >= 2 && args[0] == "chart":
		return chart(args[1], args[2:])
	case len(args) == 2 && args[0] == "kustomization":
		return kustomization(args[1])
	}
	return "", fmt.Errorf("usage: render chart FOLDER [NAME=VALUE…] | render kustomization FOLDER")
}

// chart does what `helm template drainctl FOLDER --namespace drainctl --set …` does.
func chart(folder string, set []string) (string, error) {
	chart, err := loader.Load(folder)
	if err != nil {
		return "", err
	}
	values := map[string]any{}
	for _, pair := range set {
		if err := strvals.ParseInto(pair, values); err != nil {
			return "", err
		}
	}
	release := chartutil.ReleaseOptions{Name: "drainctl", Namespace: "drainctl", IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return "", err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		if path.Ext(name) == ".yaml" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	text := ""
	for _, name := range names {
		text += "---\n" + files[name]
	}
	return text, nil
}

// kustomization does what `kubectl kustomize FOLDER` does.
func kustomization(folder string) (string, error) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return "", err
	}
	text, err := made.AsYaml()
	return string(text), err
}
