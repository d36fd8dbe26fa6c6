/*
 * Imports the results of `lymphinfer predict` into QuPath: for every image of the open project, or
 * for the open image alone where there is no project.
 *
 * A result is found by the name of the slide that its summary.json gives, so folders and images may
 * be arranged in any way. Written for QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import javafx.application.Platform
import qupath.lib.color.ColorMaps
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The --out of `lymphinfer predict`, such as '/data/results'. null: <project>/lymphinfer
String resultsFolder = null

// Take away what an earlier import has left; other detections and annotations stay.
boolean replace = true

// Give the classes the colours of the panel. false: they keep those that they have in QuPath.
boolean panelColors = true

// Colour the nuclei of the open image by this marker's probability. null: leave the display alone
String showMarker = 'CD45'

// Call the nuclei again with these thresholds, such as [CD45: 0.7, CD3e: 0.5]. A marker that is not
// named is not called. Empty: the calls stay as they are in the file.
Map<String, Double> thresholds = [:]

// ---- Work ----------------------------------------------------------------------------------

def project = getProject()
// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = project == null ? new File('.') : Projects.getBaseDirectory(project)
def folder = resultsFolder == null ? new File(base, 'lymphinfer') : new File(resultsFolder)
if (!folder.isDirectory()) {
    println "No such folder: ${folder}. Set resultsFolder at the top of this script."
    return
}
def results = findResults(folder)
println "${results.values().sum(0) { it.size() }} results in ${folder}"

def open = getProjectEntry()
int done = 0
if (project == null) {
    def imageData = getCurrentImageData()
    if (imageData == null) {
        println 'Open an image or a project first.'
        return
    }
    def result = resultOf(results, namesOf(imageData.getServer().getURIs(), imageData.getServer().getMetadata().getName()))
    if (result != null && load(result, imageData, replace, panelColors, thresholds))
        done++
} else {
    for (entry in project.getImageList()) {
        def result = resultOf(results, namesOf(entry.getURIs(), entry.getImageName()))
        if (result == null)
            continue
        // The open image has its own copy of the data; a second one would be overwritten.
        def imageData = entry == open ? getCurrentImageData() : entry.readImageData()
        if (load(result, imageData, replace, panelColors, thresholds)) {
            entry.saveImageData(imageData)
            done++
        }
        if (entry != open)
            imageData.getServer().close()
    }
    project.syncChanges()
}
println "${done} image(s) have their nuclei."
if (showMarker != null)
    showMap(showMarker)

/** By slide name: the results in a folder, as [summary, file to import]. */
Map<String, List> findResults(File folder) {
    def found = [:].withDefault { [] }
    folder.eachFileRecurse { file ->
        if (file.name != 'summary.json')
            return
        try {
            def summary = new Gson().fromJson(file.getText('UTF-8'), Map)
            found[summary.slide.name as String] << [summary, new File(file.parentFile, summary.file as String)]
        } catch (Exception e) {
            println "Passed over ${file}: ${e.message}"
        }
    }
    return found
}

/** What an image may be called: the names of its files, then its name in the project. */
List<String> namesOf(Collection<URI> uris, String imageName) {
    def names = uris.collect { GeneralTools.toPath(it)?.getFileName()?.toString() }.findAll { it != null }
    // Readers of several images in one file add the series: "a.svs - Series 0".
    return (names + [imageName, imageName.replaceFirst(/ - .*$/, '')]).unique()
}

/** The one result of an image, or null, with the reason printed. */
List resultOf(Map<String, List> results, List<String> names) {
    def name = names.find { results.containsKey(it) }
    if (name == null) {
        println "${names[0]}: no result"
        return null
    }
    def fitting = results[name]
    if (fitting.size() > 1) {
        println "${name}: ${fitting.size()} results of this name, " +
                "${fitting.collect { it[1].parent }.join(', ')}; set resultsFolder to the one that is meant"
        return null
    }
    return fitting[0]
}

/** Put a result's nuclei into an image; true if they are there. */
boolean load(List result, imageData, boolean replace, boolean panelColors, Map<String, Double> thresholds) {
    def (summary, file) = result
    if (!file.isFile()) {
        println "${summary.slide.name}: ${file} is missing; lymphinfer export --to geojson makes it again"
        return false
    }
    def objects = PathIO.readObjects(file)
    // QuPath passes over a damaged part of a .zip in silence.
    // Every number of a JSON file is a Double here.
    if (objects.size() != (summary.nuclei as int)) {
        println "${summary.slide.name}: ${file} holds ${objects.size()} nuclei, the summary counts " +
                "${summary.nuclei as int}; nothing was imported. lymphinfer export --to geojson makes the file again"
        return false
    }
    if (panelColors)
        setColors(summary)
    def point = thresholds ? callAgain(objects, summary, thresholds) : summary.operating_point?.statement
    def hierarchy = imageData.getHierarchy()
    if (replace) {
        def old = hierarchy.getDetectionObjects().findAll { !Double.isNaN(it.getMeasurementList().get('Detection probability')) }
        hierarchy.removeObjects(old, true)
    }
    hierarchy.addObjects(objects)
    println "${summary.slide.name}: ${objects.size()} nuclei, bundle ${summary.bundle.name}"
    summary.markers.each { marker, row -> println "  ${marker}: ${row.evidence?.statement ?: 'no evidence was written down'}" }
    println "  Called at ${point ?: 'the thresholds of the bundle'}"
    summary.warnings.each { println "  WARNING: ${it}" }
    return true
}

/**
 * Give the classes the colours of the panel, as the summary states them.
 *
 * QuPath makes up the colour of a class that it first met as the parent of another, and keeps that of
 * a class which an earlier file has brought.
 */
void setColors(summary) {
    summary.calls.each { name, row ->
        if (row.color != null)
            PathClass.fromString(name).setColor(ColorTools.packRGB(row.color[0] as int, row.color[1] as int, row.color[2] as int))
    }
}

/** Give every nucleus the deepest phenotype whose markers all reach their thresholds; those in use. */
Map<String, Double> callAgain(Collection objects, summary, Map<String, Double> thresholds) {
    def usable = thresholds.findAll { marker, threshold ->
        def evidence = summary.markers[marker]?.evidence
        boolean may = evidence != null && evidence.evidence != 'base-rate' && evidence.called != false
        if (!may)
            println "  ${marker}: ${evidence?.statement ?: 'not in this result'}; no nucleus is called on it"
        return may
    }
    // The summary names each class with its whole lineage: "CD45: CD3e: CD8a".
    def lineages = summary.calls.keySet().findAll { it != 'Other' }.collect { it.split(': ') as List }
    lineages = lineages.findAll { lineage -> lineage.every { usable.containsKey(it) } }
    for (object in objects) {
        def values = object.getMeasurementList()
        // A missing measurement is NaN, which reaches no threshold.
        def probability = { String marker -> values.get("${marker} probability".toString()) }
        def positive = lineages.findAll { lineage -> lineage.every { probability(it) >= usable[it] } }
        def best = positive.max { a, b -> a.size() <=> b.size() ?: probability(a[-1]) <=> probability(b[-1]) }
        object.setPathClass(PathClass.fromString(best == null ? 'Other' : best.join(': ')))
    }
    return usable
}

/** Colour the open image's nuclei by a marker's probability. */
void showMap(String marker) {
    def viewer = getCurrentViewer()
    if (viewer == null || getCurrentImageData() == null)
        return
    def mapper = new MeasurementMapper(
            ColorMaps.getColorMaps().get('Viridis'), "${marker} probability".toString(), getDetectionObjects())
    mapper.setDisplayMinValue(0)
    mapper.setDisplayMaxValue(1)
    Platform.runLater {
        viewer.getOverlayOptions().setMeasurementMapper(mapper)
        viewer.repaintEntireImage()
    }
}
